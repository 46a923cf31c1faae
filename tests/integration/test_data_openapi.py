"""The OpenAPI description of data sets, reviews and runs: every answer is as described, and none is a fault."""

import pytest

from review_server import review_server

schemathesis = pytest.importorskip(
    "schemathesis", reason="pip install schemathesis runs the test of the OpenAPI description"
)
from hypothesis import HealthCheck, Phase, given  # noqa: E402
from hypothesis import settings as examples  # noqa: E402
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance  # noqa: E402


def test_the_description_holds_for_data(tmp_path):
    asked = []
    with review_server(tmp_path) as served:
        schema = schemathesis.openapi.from_url(f"{served.address}openapi.json")
        for operation in schema.include(path_regex=r"^/v1/(data|review|run)").get_all_operations():

            @examples(
                max_examples=10, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.ok().as_strategy())
            def holds(case):
                # No schema says which splits, pictures and labels there are.
                case.call_and_validate(excluded_checks=[positive_data_acceptance, negative_data_rejection])

            holds()
            asked.append(operation.ok().label)
        assert len(asked) == 15
