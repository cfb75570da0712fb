import pytest

from stageflow.product import Product
from stageflow.testing_stages import Telling, tell

NODE = tell(Telling(label="x"))


def test_a_product_says_how_to_get_it() -> None:
    product = Product(name="numbers to take away", node=NODE)
    assert product.folder == f"tell/{NODE.key}"
    assert product.command == f"stageflow fetch tell/{NODE.key[:8]} FOLDER"


@pytest.mark.parametrize("name", ["", " ", "two\nlines"])
def test_it_needs_a_name_that_fits_a_line(name: str) -> None:
    with pytest.raises(ValueError, match="of tell: name it in one line"):
        Product(name=name, node=NODE)
