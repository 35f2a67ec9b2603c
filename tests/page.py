"""Commands of docs/operations.md, typed as they stand there."""

from pathlib import Path
from subprocess import check_output

from tests.conftest import Shop

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"


def type_command(shop: Shop, *parts: str, order_id: str = "") -> str:
    """Type the only line of the page that has these parts, and return what it prints."""
    lines = PAGE.read_text().splitlines()
    [line] = [line for line in lines if all(part in line for part in parts)]
    line = line.replace("order-fulfillment", shop.task_queue)
    line = line.replace("uv run signals.py", f"python {shop.scripts}/signals.py")
    environment = shop.environment | {"id": order_id}
    line = line.replace("uv run ", "")
    return check_output(line, shell=True, cwd=shop.folder, env=environment, text=True)
