"""The baseline: every scenario of the suites that does not pass, which of its checks, and why.

It is exact: a scenario that begins to pass fails the run as one that stops passing does. To change the product's mind
about a feature, change it here as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONTENT = "results of tools are text and JSON alone; none has an image, audio or an embedded resource"
LISTED = "looks for a tool of the suite's own in the list, which has the product's alone"
PROMPTS = "gets a prompt of the suite's own; here it is an unknown prompt, and refused"
BINARY = "all resources are text"
LOGGING = "logging to the client is not offered (deprecated in the protocol); the log goes to stderr"
PROGRESS = "waits are bounded at 50 s and send no progress"
SAMPLING = "the server never asks for the client's model"
ROOTS = "the server never asks for the client's directories"
FORMS = "wants a form made for it; a form of ours has a decision, a text or both, and no defaults"
STATE = "a question of ours needs no `requestState`: its key names the run and the request"
HEADERS = "no tool maps its arguments to HTTP headers"
ENDS = "a run that fails completes its task, with what `get_run` says of it; `isError` is for calls that are refused"


@dataclass(frozen=True, slots=True)
class Expected:
    """A scenario that does not pass.

    Attributes:
        failed: its failing checks; None stands for one that is named like the scenario.
        warnings: its checks that only warn, which the suite counts as failing too.
        scored: whether it counts for the revision; what does not is run and shown, and not in the suite's baseline.
    """

    scenario: str
    why: str
    failed: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    scored: bool = True

    @property
    def failing(self) -> tuple[str, ...]:
        """The failing checks, by name."""
        if self.failed is not None:
            return self.failed
        return () if self.warnings else (self.scenario,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A release of the conformance suite and how it is run.

    Attributes:
        package: its name in package.json, which has the version.
        hollow: scenarios that pass but prove little here, and why.
    """

    title: str
    package: str
    arguments: tuple[str, ...]
    expected: tuple[Expected, ...]
    hollow: Mapping[str, str] = field(default_factory=dict[str, str])


INITIALIZE_ERA = Suite(
    title="The active suite, protocol 2025-11-25 and before",
    package="@modelcontextprotocol/conformance",
    arguments=("--suite", "active"),
    hollow={
        "tools-call-elicitation": "the person is asked, but the suite's answer has not the fields of the form: the run "
        "goes on waiting, and the call says so",
        "resources-subscribe": "the suite waits for no notification",
        "resources-unsubscribe": "the suite does not look whether notifications end",
    },
    expected=(
        Expected("elicitation-sep1034-defaults", FORMS, ("elicitation-sep1034-general",)),
        Expected("elicitation-sep1330-enums", FORMS, ("elicitation-sep1330-general",)),
        Expected("logging-set-level", LOGGING),
        Expected("prompts-get-embedded-resource", PROMPTS),
        Expected("prompts-get-simple", PROMPTS),
        Expected("prompts-get-with-args", PROMPTS),
        Expected("prompts-get-with-image", PROMPTS),
        Expected("resources-read-binary", BINARY),
        Expected("tools-call-audio", CONTENT),
        Expected("tools-call-embedded-resource", CONTENT),
        Expected("tools-call-image", CONTENT),
        Expected("tools-call-mixed-content", CONTENT),
        Expected("tools-call-sampling", SAMPLING),
        Expected("tools-call-with-logging", LOGGING),
        Expected("tools-call-with-progress", PROGRESS),
    ),
)


def _input(scenario: str, why: str, check: str) -> Expected:
    return Expected(f"input-required-result-{scenario}", why, (f"sep-2322-{check}",))


def _tasks(scenario: str, why: str, *checks: str) -> Expected:
    return Expected(f"tasks-{scenario}", why, tuple(f"sep-2663-{check}" for check in checks), scored=False)


STATELESS_ERA = Suite(
    title="What protocol 2026-07-28 requires",
    package="conformance-next",
    arguments=("--requirements", "2026-07-28"),
    hollow={
        "tasks-request-headers": "the tests' layer compares `Mcp-Name` with the task's id: the product speaks stdio, "
        "which has no headers, and the SDK compares it for other methods alone",
        "tasks-status-notifications": "the suite skips its only check",
    },
    expected=(
        _input("basic-list-roots", ROOTS, "list-roots-incomplete"),
        _input("basic-sampling", SAMPLING, "sampling-incomplete"),
        _input(
            "capability-check",
            "wants to be asked for a model, as it shows no forms; the server asks for nothing but forms",
            "respect-client-capabilities",
        ),
        _input("multi-round", STATE, "multi-round-r1"),
        _input("multiple-input-requests", f"{SAMPLING}, nor for its directories", "multiple-inputs-incomplete"),
        _input("non-tool-request", "no prompt asks for anything but its arguments", "non-tool-incomplete"),
        _input("request-state", STATE, "request-state-incomplete"),
        _input("tampered-state", STATE, "reject-tampered-state"),
        Expected("prompts-get-embedded-resource", PROMPTS),
        Expected("prompts-get-simple", PROMPTS),
        Expected("prompts-get-with-args", PROMPTS),
        Expected("prompts-get-with-image", PROMPTS),
        Expected("resources-read-binary", BINARY),
        Expected(
            "server-stateless",
            "needs the suite's own tool test_missing_capability; no tool of ours needs a client's capability",
            ("sep-2575-missing-capability-http-400", "sep-2575-server-rejects-undeclared-capability"),
        ),
        Expected("tools-call-audio", CONTENT),
        Expected("tools-call-embedded-resource", CONTENT),
        Expected("tools-call-image", CONTENT),
        Expected("tools-call-mixed-content", CONTENT),
        Expected("tools-call-with-progress", PROGRESS),
        Expected(
            "http-custom-header-server-validation",
            HEADERS,
            (
                "sep-2243-server-decode-base64",
                "sep-2243-server-no-xmcp-tool",
                "sep-2243-server-reject-invalid-param-chars",
                "sep-2243-server-reject-param-mismatch",
                "sep-2243-server-validate-param-match",
            ),
            scored=False,
        ),
        Expected("json-schema-2020-12", LISTED, ("json-schema-2020-12-tool-found",), scored=False),
        _tasks("lifecycle", ENDS, "tasks-get-status-failed", "tool-error-uses-completed-status"),
        _tasks(
            "mrtr-composition",
            "no call asks first and becomes a task then: what a run asks, its task asks",
            "mrtr-synchronous-before-task-creation",
        ),
        _tasks(
            "required-task-error",
            "no tool needs tasks: for a client without them it waits",
            "server-returns-missing-capability-when-required",
        ),
    ),
)

SUITES = (INITIALIZE_ERA, STATELESS_ERA)
