"""`self`: the policy judges its own responses, by the weights that wrote them."""

from service.annotator import Case, Verdict
from worker.annotators import prompt


class Policy:
    async def compare(self, case: Case) -> Verdict:
        return prompt.read(await case.ask([prompt.question(case)], max_tokens=prompt.MAX_TOKENS))
