"""The OpenAPI description, asked by schemathesis: every answer is as described, and none is a fault."""

import pytest

from opendetr.serving.app import create_app
from served import Standing, settings

schemathesis = pytest.importorskip(
    "schemathesis", reason="pip install schemathesis runs the test of the OpenAPI description"
)
from hypothesis import HealthCheck, Phase  # noqa: E402
from hypothesis import settings as examples  # noqa: E402
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance  # noqa: E402

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(settings(host="0.0.0.0"), Standing()))
ROUTES = r"^/(v1/(detect|explain|match|look|model)|healthz|readyz|metrics|health|setup|predict|webhook)$"


@schema.include(path_regex=ROUTES).parametrize()
@examples(
    max_examples=15, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_the_description_holds(case):
    # No schema says what a picture or a labelling interface is, and 413 is no rejection in schemathesis's list.
    case.call_and_validate(excluded_checks=[positive_data_acceptance, negative_data_rejection])
