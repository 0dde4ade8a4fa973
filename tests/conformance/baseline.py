"""The baseline: every scenario of the suites that does not pass, which of its checks, and why.

It is exact: a scenario that begins to pass fails the run as one that stops passing does. To change the product's mind
about a feature, change it here as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FIXTURE = "calls a tool of the suite's own test server; here it is an unknown tool, and refused"
PROMPTS = "gets a prompt of the suite's own test server; here it is an unknown prompt, and refused"
RESOURCES = "reads a resource of the suite's own test server; here it is an unknown one, and refused"
SUBSCRIPTIONS = "subscriptions are not offered: the capability is absent and the method not found"
LOGGING = "logging to the client is not offered (deprecated in the protocol); the log goes to stderr"
PROGRESS = "calls a tool of the suite's own; waits are bounded at 50 s and send no progress"
SAMPLING = "calls a tool of the suite's own; the server never asks for the client's model"
ELICITATION = "calls a tool of the suite's own; what an agent asks is in `pending`, answered by `continue_run`"
INPUT = "calls a tool of the suite's own; no result of ours asks the client for input"
TASKS = "the tasks extension is not offered: `run_id` is the handle, and `poll_events` tells more"
HEADERS = "no tool maps its arguments to HTTP headers"


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


_REFUSED = "calls a tool of the suite's own, and takes the text of the refusal for its answer"
_ERROR = "calls a tool of the suite's own; its refusal is an error result, as wanted"

INITIALIZE_ERA = Suite(
    title="The active suite, protocol 2025-11-25 and before",
    package="@modelcontextprotocol/conformance",
    arguments=("--suite", "active"),
    hollow={"tools-call-simple-text": _REFUSED, "tools-call-error": _ERROR},
    expected=(
        Expected("elicitation-sep1034-defaults", ELICITATION, ("elicitation-sep1034-general",)),
        Expected("elicitation-sep1330-enums", ELICITATION, ("elicitation-sep1330-general",)),
        Expected("logging-set-level", LOGGING),
        Expected("prompts-get-embedded-resource", PROMPTS),
        Expected("prompts-get-simple", PROMPTS),
        Expected("prompts-get-with-args", PROMPTS),
        Expected("prompts-get-with-image", PROMPTS),
        Expected("resources-read-binary", RESOURCES),
        Expected("resources-read-text", RESOURCES),
        Expected("resources-subscribe", SUBSCRIPTIONS),
        Expected("resources-templates-read", RESOURCES),
        Expected("resources-unsubscribe", SUBSCRIPTIONS),
        Expected("tools-call-audio", FIXTURE),
        Expected("tools-call-elicitation", ELICITATION),
        Expected("tools-call-embedded-resource", FIXTURE),
        Expected("tools-call-image", FIXTURE),
        Expected("tools-call-mixed-content", FIXTURE),
        Expected("tools-call-sampling", SAMPLING),
        Expected("tools-call-with-logging", LOGGING),
        Expected("tools-call-with-progress", PROGRESS),
    ),
)


def _input(scenario: str, check: str) -> Expected:
    return Expected(f"input-required-result-{scenario}", INPUT, (f"sep-2322-{check}",))


def _tasks(scenario: str, *checks: str) -> Expected:
    return Expected(f"tasks-{scenario}", TASKS, checks, scored=False)


STATELESS_ERA = Suite(
    title="What protocol 2026-07-28 requires",
    package="conformance-next",
    arguments=("--requirements", "2026-07-28"),
    hollow={
        "tools-call-simple-text": _REFUSED,
        "tools-call-error": _ERROR,
        "input-required-result-ignore-extra-params": _REFUSED,
        "tasks-status-notifications": "the suite skips its only check",
    },
    expected=(
        _input("basic-elicitation", "elicitation-incomplete"),
        _input("basic-list-roots", "list-roots-incomplete"),
        _input("basic-sampling", "sampling-incomplete"),
        _input("capability-check", "respect-client-capabilities"),
        Expected(
            "input-required-result-missing-input-response",
            INPUT,
            warnings=("sep-2322-missing-response-rerequests",),
        ),
        _input("multi-round", "multi-round-r1"),
        _input("multiple-input-requests", "multiple-inputs-incomplete"),
        Expected("input-required-result-non-tool-request", PROMPTS, ("sep-2322-non-tool-incomplete",)),
        _input("request-state", "request-state-incomplete"),
        _input("result-type", "result-type-included"),
        _input("tampered-state", "reject-tampered-state"),
        Expected("input-required-result-validate-input", INPUT, warnings=("sep-2322-error-on-protocol-error",)),
        Expected("prompts-get-embedded-resource", PROMPTS),
        Expected("prompts-get-simple", PROMPTS),
        Expected("prompts-get-with-args", PROMPTS),
        Expected("prompts-get-with-image", PROMPTS),
        Expected("resources-read-binary", RESOURCES),
        Expected("resources-read-text", RESOURCES),
        Expected("resources-templates-read", RESOURCES),
        Expected(
            "server-stateless",
            "needs the suite's own tool test_missing_capability; no tool of ours needs a client's capability",
            ("sep-2575-missing-capability-http-400", "sep-2575-server-rejects-undeclared-capability"),
        ),
        Expected("tools-call-audio", FIXTURE),
        Expected("tools-call-embedded-resource", FIXTURE),
        Expected("tools-call-image", FIXTURE),
        Expected("tools-call-mixed-content", FIXTURE),
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
        Expected("json-schema-2020-12", FIXTURE, ("json-schema-2020-12-tool-found",), scored=False),
        _tasks(
            "capability-negotiation",
            "sep-2663-tasks-methods-non-declaring",
            "tasks-extension-advertised",
            "tasks-per-request-meta-opt-in",
        ),
        _tasks(
            "dispatch-and-envelope",
            "sep-2663-durable-create-strong-consistency",
            "sep-2663-tasks-get-invalid-task-id-32602",
            "tasks-server-directed-creation-no-hint",
        ),
        _tasks(
            "lifecycle",
            "sep-2663-cancel-ack-empty-result",
            "sep-2663-result-type-task-on-create",
            "sep-2663-tasks-get-status-completed",
            "sep-2663-tasks-get-status-failed",
            "sep-2663-tasks-get-status-working",
            "sep-2663-tool-error-uses-completed-status",
            "tasks-cancel-terminal-idempotent-ack",
        ),
        _tasks("mrtr-composition", "sep-2663-mrtr-synchronous-before-task-creation"),
        _tasks(
            "mrtr-input",
            "sep-2663-tasks-get-status-input-required",
            "tasks-mrtr-partial-fulfillment",
            "tasks-mrtr-tasks-update-resumes",
        ),
        _tasks(
            "request-headers",
            "sep-2663-routing-headers-accepted-on-tasks-get",
            "sep-2663-server-rejects-mismatched-mcp-name-on-tasks-get",
            "tasks-headers-tolerate-mcp-method-on-tools-call",
        ),
        _tasks("request-state-removal", "tasks-request-state-removal-setup"),
        _tasks("required-task-error", "sep-2663-server-returns-missing-capability-when-required"),
        _tasks(
            "wire-fields",
            "tasks-no-early-ttl-expiry",
            "tasks-no-related-task-meta-on-inlined-result",
            "tasks-wire-field-renames",
        ),
    ),
)

SUITES = (INITIALIZE_ERA, STATELESS_ERA)
