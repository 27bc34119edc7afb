"""`self`: the policy judges its own responses, by the weights that wrote them."""

from service.annotator import Case, Verdict
from worker.annotators import prompt
from worker.annotators.verdicts import parse_verdict


class SelfAnnotator:
    """Asks the job's own policy."""

    async def compare(self, case: Case) -> Verdict:
        return parse_verdict(
            await case.ask([prompt.comparison_message(case)], max_tokens=prompt.MAX_TOKENS)
        )
