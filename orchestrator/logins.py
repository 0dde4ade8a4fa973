"""A login that an agent needs before it can go on: found out by its driver, settled by the run's caller."""

from __future__ import annotations

from orchestrator.backend import RunContext
from orchestrator.ends import Failed
from orchestrator.errors import BackendError
from orchestrator.model import InputRequest

GO_ON = "The login is settled now. Go on with the task."
"""What an agent is told that had begun when it was found to need a login."""


class LoginNeeded(BackendError):
    """The model's service does not let the agent in. The message says what it answered."""

    def __init__(self, words: str) -> None:
        super().__init__("auth_failed", words)


async def settle(ctx: RunContext, refusal: LoginNeeded, *, agent: str, how: str, number: int) -> Failed | None:
    """Asks the caller for a login. Returns None once it says that it is settled, or how the run ends without it.

    Args:
        agent: whose login it is.
        how: what to do.
        number: the how-manieth login of this run it is.
    """
    text = f"{agent} cannot log in: {refusal}. {how}, then approve to go on."
    answer = await ctx.ask(InputRequest(request_id=f"login-{number}", kind="auth", text=text))
    if answer.decision == "deny":
        return Failed(code="auth_failed", message=f"{agent} cannot log in: {refusal}")
    return None
