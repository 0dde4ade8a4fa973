"""What is required of Orchestrator, and which tests show it.

Each behaviour has a stable id, the source of the rule and the tests that prove it, as patterns over
`folder/file::test` without `tests/`, `test_` and `.py`. `tests/unit/test_manifest.py` checks both directions: no
behaviour without a test, no test without a behaviour. Add the behaviour first, then its test.
"""

from __future__ import annotations

from typing import NamedTuple


class Behaviour(NamedTuple):
    """One required behaviour."""

    id: str
    source: str
    text: str
    tests: tuple[str, ...]


_STORE, _ENGINE, _REMOTE = "docs/design/store.md", "docs/design/engine.md", "docs/design/remote-a2a.md"
_AGENTS, _COMPLETION = "docs/design/local-agents.md", "docs/design/completion.md"
_DOOR, _README, _EXTENSION = "docs/design/mcp-door.md", "README.md", "docs/design/a2a-extension.md"

BEHAVIOURS: tuple[Behaviour, ...] = (
    # ---- runs and their states
    Behaviour("run/lifecycle", _README, "A run goes from spawn to exactly one end and says how.", (
        "contract/runs::a_run_goes_*", "contract/runs::each_other_end_*", "unit/events::a_run_begins_*",
        "unit/events::every_ending_*", "unit/events::the_counters_*", "unit/engine_requests::an_end_*",
        "unit/engine_requests::a_failure_*", "unit/engine::a_queued_*", "fundamentals/01_a_run::*")),
    Behaviour("run/names", _README, "Runs, sessions and agents have names that hold across processes.", (
        "contract/runs::spawn_answers_*", "unit/sessions::*name*", "unit/sessions::*agent*", "unit/layout::ids_*")),
    Behaviour("run/told", _README, "What an agent does is told as it does it, once, in numbered events.", (
        "contract/runs::what_the_agent_*", "contract/runs::events_are_*", "contract/runs::a_message_*",
        "unit/events::progress_*", "unit/events::what_was_said_*", "unit/events::a_summary_*",
        "unit/engine::a_start_*", "unit/engine::what_the_agent_*", "unit/engine::an_agents_session_*",
        "fundamentals/02_events::*")),
    Behaviour("run/limits", _ENGINE, "limits.timeout_s counts work, not waiting.", (
        "contract/runs::the_run_ends_*", "contract/runs::waiting_*")),
    Behaviour("run/cancel", _README, "cancel_run ends a run once its agent is gone, and harms none that is over.", (
        "contract/runs::cancel_*", "contract/runs::a_finished_run_can_be_*", "contract/requests::cancel_*",
        "unit/remote_streams::cancel_*")),
    Behaviour("run/bulkhead", _ENGINE, "A defect or a flood in one run leaves the others alone.", (
        "contract/runs::a_defect_*", "contract/runs::many_runs_*", "unit/remote_guard::a_local_defect_*",
        "unit/engine::an_agent_that_cancels_*")),
    Behaviour("run/caller-gone", _ENGINE, "A step that is on disk is finished, also when its caller went away.", (
        "unit/faults::*",)),
    Behaviour("run/schema", _README, "Structured output is checked against the caller's schema.", (
        "contract/runs::structured_*", "unit/engine_requests::an_answer_is_structured_*",
        "unit/engine_requests::an_answer_that_breaks_*")),
    Behaviour("run/usage", _README, "Usage is told the same way for every backend.", ("contract/runs::usage_*",)),
    Behaviour("run/permission", _README, "A permission reaches the agent, or the run says that it cannot.", (
        "contract/runs::read_only_*", "unit/remote_guard::read_only_*")),
    Behaviour("run/sessions-end", _STORE, "A session goes once no run of it is left and nobody uses it; no resume is "
        "left without its own.", ("unit/sessions::*session*", "unit/sessions::a_lock_that_*")),
    Behaviour("run/idempotency", _STORE, "One key with the same arguments is one run, in all processes.", (
        "contract/runs::the_same_idempotency_*", "unit/sessions::*key*", "system/clients::a_key_*")),
    Behaviour("run/listing", _README, "Runs are found again, newest first, at or below a directory, in pages.", (
        "contract/runs::the_callers_*", "contract/runs::pages_*", "unit/layout::*index*", "unit/layout::runs_*")),
    Behaviour("run/nothing-left", _ENGINE, "After the work no task, descriptor, process, file or entry is left.", (
        "contract/leaks::*",)),
    # ---- local agents
    # ---- profiles
    Behaviour("profiles/read", "docs/profiles.md", "A file is a profile, or what is wrong is said with the fix.", (
        "unit/profiles::*", "unit/profile_lookup::*")),
    Behaviour("profiles/applied", "docs/profiles.md", "A profile fills in what a call leaves open, as far as whoever "
        "wrote it may; its text reaches the agent.", ("unit/profiled::*", "contract/profiles::*")),
    Behaviour("profiles/packaged", "docs/profiles.md", "Each packaged profile works with each real agent.", (
        "system/packaged_profiles::*",)),
    Behaviour("profiles/reviewer", _README, "The reviewer mends, reports, and commits only what it may.", (
        "system/reviewer::*",)),
    Behaviour("cli/profiles", _README, "Profiles are listed, shown, checked, begun and used by commands.", (
        "system/cli_profiles::*",)),
    Behaviour("door/offers", _DOOR, "Prompts, resources, completion and sets of tools, through both doors.", (
        "system/offers::*",)),
    # ---- agents that talk
    Behaviour("talk/face", "docs/design/agent-tools.md", "An agent asks, reports, writes and spawns by tools of ours, "
        "within its tree and for as long as its run lives.", ("contract/agent_tools::*", "unit/agent_bounds::*",
        "unit/agent_faults::*", "unit/remote_tools::*", "unit/races::*")),
    Behaviour("talk/messages", "docs/design/agent-tools.md", "A message arrives as its sender was told, is given until "
        "it is acknowledged, and reaches no other run.", ("contract/messages::*", "unit/inbox::*")),
    Behaviour("talk/together", _README, "Agents of two kinds finish a task together; a killed host loses no message; "
        "people and shells write by commands.", ("system/messages_between::*",)),
    # ---- results that can be trusted
    Behaviour("workspaces/runs", "docs/design/workspaces.md", "A run works in a place of its own; what it changed is a "
        "patch that was tried, its checks are run by the host, and its result is brought in whole or not at all.", (
        "contract/workspaces::*", "system/workspaces::*", "unit/bringing::*",
        "unit/bringing_meanwhile::*")),
    Behaviour("workspaces/kept", "docs/design/workspaces.md", "A look changes nothing, its patch gives the same "
        "files, and a place that holds more than its patch stays, whatever the repository and its settings.", (
        "unit/snapshots::*", "unit/odd_repositories::*", "unit/places::*", "unit/workspace_bounds::*",
        "unit/places_kept::*", "unit/places_closed::*")),
    Behaviour("local/work", _AGENTS, "What a local agent does is told in the words of every backend.", (
        "unit/claude_updates::*", "unit/claude_odd_updates::*", "unit/codex_updates::*", "unit/codex_odd_updates::*",
        "unit/changes::*", "contract/side_by_side::*", "system/claude_work::*")),
    Behaviour("local/ends", _AGENTS, "Each end of a local agent is told by its cause; nothing of the agent is left.", (
        "unit/claude_ends::*", "unit/codex_ends::*", "unit/line_process::*", "unit/line_process_end::*",
        "system/claude_ends::*", "system/codex_ends::*", "system/cancels::*", "system/agents_and_hosts::*")),
    Behaviour("local/errors", _AGENTS, "A login, a service or a program that fails is told with what to do.", (
        "unit/codex_client::*", "system/claude_errors::*", "system/codex_errors::*")),
    Behaviour("local/permission", _AGENTS, "A permission holds whatever the agent, its user or its folder say.", (
        "unit/claude_options::*", "unit/codex_options::*", "system/claude_permissions::*",
        "unit/engine::a_run_whose_permission_*", "unit/recovery::what_had_not_begun_and_was_changed_*",
        "system/codex_permissions::*")),
    Behaviour("local/requests", _AGENTS, "What a local agent asks waits for the caller, who sees what is at stake.", (
        "unit/claude_requests::*", "unit/codex_requests::*", "unit/questions::*", "system/claude_requests::*",
        "unit/steering::*")),
    Behaviour("local/sessions", _AGENTS, "A local agent's session goes on, forks, or is said to be lost.", (
        "system/claude_sessions::*", "system/codex_sessions::*")),
    Behaviour("local/inputs", _AGENTS, "What a caller gives along reaches the agent.", ("system/codex_inputs::*",)),
    # ---- requests and sessions
    Behaviour("request/answer", _ENGINE, "A request waits for its caller and is answered once.", (
        "contract/requests::a_question_waits_*", "contract/requests::one_request_*", "contract/requests::a_login_*",
        "contract/requests::a_request_that_*", "unit/events::a_run_waits_*", "unit/events::a_request_*",
        "unit/events::a_login_*", "unit/engine_requests::a_request_*", "unit/engine_requests::of_several_*",
        "unit/engine_requests::an_answer_in_words_*", "unit/engine_requests::an_answer_that_*",
        "fundamentals/03_answers::*")),
    Behaviour("request/approval", _ENGINE, "Nothing is approved but by an explicit decision or policy.", (
        "contract/requests::an_approval_is_*", "contract/requests::words_*", "contract/requests::on_approval_*",
        "unit/engine_requests::a_decision_*", "unit/engine_requests::a_policy_*")),
    Behaviour("request/expiry", _README, "An approval that nobody gives is denied; a question ends the run.", (
        "contract/requests::an_approval_that_*", "contract/requests::a_question_that_*",
        "unit/engine_requests::an_approval_*", "unit/engine_requests::a_question_*")),
    Behaviour("session/resume", _README, "A finished run is resumed in its session, never silently begun afresh.", (
        "contract/requests::a_finished_*", "contract/requests::sessions_are_*", "contract/requests::a_session_*",
        "unit/sessions::*session*", "unit/engine::a_resumed_*", "unit/engine::a_fork_*", "unit/engine::a_session_*",
        "unit/engine::a_run_in_a_session_*", "unit/engine::an_agent_that_cannot_resume_*",
        "unit/engine::a_run_that_is_over_*")),
    Behaviour("session/order", _ENGINE, "Runs of one session come one after the other, first come first served.", (
        "contract/requests::runs_of_one_*",)),
    Behaviour("session/steer", _README, "A running agent is steered, or the call says that it cannot be.", (
        "contract/requests::talking_*", "unit/engine::steering_*")),
    # ---- the store
    Behaviour("store/numbers", _STORE, "Events are numbered 1, 2, 3 without gaps by one writer.", (
        "unit/log::the_numbers_*", "unit/log::an_append_*", "unit/log::what_append_*",
        "unit/takeover::only_the_process_*", "unit/takeover::of_many_*", "unit/takeover::a_log_*",
        "unit/takeover::a_takeover_*")),
    Behaviour("store/one-end", _STORE, "Exactly one terminal event ends a log.", (
        "unit/log::nothing_follows_*", "unit/log::of_many_endings_*", "unit/takeover::a_run_that_is_over_*")),
    Behaviour("store/whole-lines", _STORE, "A reader never sees half a line; the next owner cuts a torn one off.", (
        "unit/takeover::a_reader_*", "unit/takeover::the_next_owner_*", "unit/log::a_line_*",
        "unit/reader::in_the_owners_*")),
    Behaviour("store/fold", _STORE, "The state is the fold of the log; run.json is a cache of it.", (
        "unit/events::a_fold_*", "unit/reader::*", "unit/log::*snapshot*", "unit/damage::*snapshot*",
        "unit/events::a_final_*", "unit/log::the_result_*", "unit/log::who_waits_*")),
    Behaviour("store/damage", _STORE, "Damaged files are told as store_error and hide nothing else.", (
        "unit/damage::*", "unit/artifacts::a_damaged_*", "unit/sessions::a_damaged_*", "unit/layout::a_damaged_*",
        "unit/layout::a_file_that_is_no_*", "unit/takeover::a_damaged_*", "unit/bad_input::a_damaged_*")),
    Behaviour("store/oversize", _STORE, "Long fields are previews; the whole is stored once and readable in pages.", (
        "unit/artifacts::*", "contract/runs::an_artifact_*")),
    Behaviour("store/streamed", _STORE, "An artifact that comes in pieces is stored once, as its pieces joined.", (
        "unit/spool::*", "unit/takeover::pieces_*")),
    Behaviour("store/any-value", _STORE, "No value that an agent sends breaks its log.", (
        "unit/log::half_a_*", "unit/log::a_value_*")),
    Behaviour("store/disk-full", _STORE, "A full disk ends the run truly, in the room kept for that.", (
        "unit/disk_full::*", "unit/log::a_line_that_could_*", "system/disk::*")),
    Behaviour("store/private", _STORE, "Directories are 0700, files 0600, and no name leaves its directory.", (
        "unit/layout::*",)),
    Behaviour("store/version", _STORE, "A store of an unknown format is refused and left alone.", (
        "unit/layout::a_store_of_*", "unit/bad_input::a_store_of_*")),
    Behaviour("store/all-or-nothing", _STORE, "A returned id is readable; a refused call leaves nothing.", (
        "unit/sessions::a_run_*", "contract/runs::a_refused_spawn_*")),
    Behaviour("store/secrets", _README, "Credentials never reach the disk, also across the borders of pieces.", (
        "unit/masking::*", "unit/sessions::credentials_*", "unit/remote_streams::a_new_credential_*",
        "unit/engine::the_environment_*")),
    # ---- the doors
    Behaviour("door/refusal", _DOOR, "A wrong call is refused with a code and a sentence that helps.", (
        "unit/bad_input::*", "unit/errors::*", "unit/engine::a_wrong_part_*",
        "unit/engine::a_structured_message_*", "system/server::an_error_*")),
    Behaviour("door/small", _DOOR, "Tool list and results are small; what was cut is named.", (
        "system/server::the_tool_list_*", "unit/clip::*", "system/clients::the_inspectors_strict_*")),
    Behaviour("door/process", _DOOR, "The server serves its client and ends truly on EOF and on every signal.", (
        "system/server::every_way_*", "system/server::a_flood_*", "system/server::the_command_*", "system/junk::*",
        "unit/engine::a_server_that_ends_*")),
    Behaviour("door/owner", _README, "A run of another process can be read, not commanded, and is never left a lie.", (
        "system/server::another_*", "system/server::a_killed_*", "system/clients::only_the_server_*",
        "system/clients::the_inspector_reads_*", "unit/engine::who_looks_*", "unit/engine::a_run_of_a_live_*")),
    Behaviour("door/foreign-clients", _README, "Clients of others drive a whole run in both protocol eras.", (
        "system/clients::*",)),
    Behaviour("door/main-agents", _README, "Claude Code and Codex themselves find all tools and drive a whole run.", (
        "system/real_clients::a_main_agent_*",)),
    Behaviour("door/outlives-client", _README, "A run outlives its killed client, and the next one goes on with it.", (
        "system/real_clients::a_run_outlives_*",)),
    Behaviour("door/any-input", _DOOR, "No input crashes, hangs or makes a lie.", ("unit/fuzz::*",)),
    Behaviour("door/conformance", "docs/conformance.md", "The official suites of MCP find what is written down.", (
        "system/conformance::*",)),
    # ---- the host and the bridge
    Behaviour("host/one", _README, "However many start it, there is one host, nobody's child, its user's alone.", (
        "system/host::of_twenty_*", "system/host::the_host_*", "unit/place::*", "unit/launch::who_waits_*")),
    Behaviour("host/found", _README, "A host is found or started, or it is said why there is none.", (
        "unit/launch::*", "system/bridge_faults::where_no_*", "system/bridge_faults::while_no_host_*",
        "system/bridge_faults::a_home_given_*")),
    Behaviour("host/commands", _README, "The host can be started, looked at, read and stopped by hand.", (
        "system/host::start_status_*", "system/host::where_no_host_*", "system/host::logs_*", "system/host::stop_*")),
    Behaviour("host/ends", _README, "A host ends when nobody needs it, when its home is gone, or when told to.", (
        "system/host::a_host_ends_*", "system/host::a_host_that_is_told_*", "system/host_faults::what_is_never_*")),
    Behaviour("host/next-version", _README, "A host makes room for the next version; live runs stay commanded.", (
        "system/host::a_host_makes_*", "system/host::the_live_runs_*", "system/host::a_version_*",
        "system/host::a_host_leaves_*", "unit/launch::who_makes_room_*")),
    Behaviour("host/bulkhead", _README, "No client, whatever it says or does not read, is noticed by the others.", (
        "system/host_faults::*", "system/bridge::all_clients_*")),
    Behaviour("host/watch", _README, "A host tells when its loop stands still, and leaves no orphan unburied.", (
        "unit/watch::*", "system/host::the_log_*")),
    Behaviour("bridge/small", _README, "A bridge is small, loads the standard library alone and holds little.", (
        "system/bridge::a_bridge_*", "system/bridge_handover::who_does_not_read_*")),
    Behaviour("bridge/lines", _README, "Every line passes whole, once, in both directions, whatever its size.", (
        "system/bridge::lines_*", "system/bridge::a_line_*", "system/bridge::many_*", "system/bridge::ids_*",
        "system/bridge::junk_*", "system/bridge::answers_*", "system/bridge::requests_*",
        "system/bridge::a_client_in_*", "system/bridge_faults::no_line_*", "system/bridge_faults::however_many_*")),
    Behaviour("bridge/no-owner", _README, "A client and its bridge may end in any way; their runs go on.", (
        "system/bridge::every_way_*", "system/bridge::a_run_outlives_*", "system/bridge::an_agent_*",
        "system/bridge::a_server_in_process_*", "system/bridge_faults::a_client_that_*",
        "system/bridge_faults::a_bridge_ends_*")),
    Behaviour("bridge/next-host", _README, "When the host goes away, reads are asked again and commands refused.", (
        "system/bridge_faults::*_dies", "system/bridge_faults::*_never_sent_*",
        "system/bridge_faults::*_told_to_end", "system/bridge_handover::*")),
    # ---- the command line
    Behaviour("cli/runs", _README, "Runs are started, waited for, answered, steered and cancelled by commands, and "
        "exit codes say what became of it.", ("system/cli_runs::*",)),
    Behaviour("cli/reading", _README, "Lists, events and artifacts are read whole: in pipes, in any locale, by "
        "readers that go away.", ("system/cli_reading::*", "system/cli_listing::*")),
    Behaviour("cli/complete", _README, "The shell completes names, ids and the words that options take.", (
        "system/cli_complete::*",)),
    Behaviour("cli/every", _README, "Every command has documents for a program, lines for a pipe, and fits a terminal "
        "of 80 and of 40 columns.", ("system/cli_every::*",)),
    Behaviour("cli/terminal", _README, "A person at a terminal of any width watches a run, is asked by it and can "
        "leave it; no agent commands the terminal.", ("system/cli_terminal::*",)),
    Behaviour("cli/requests", _README, "A person reads all of what is asked before they answer, and can give every "
        "answer that is offered.", ("system/cli_requests::*", "unit/cli_requests::*")),
    Behaviour("cli/upkeep", _README, "Old runs are removed only when told, never a live one, never outside of the "
        "store; settings and host are shown.", ("system/cli_upkeep::*",)),
    Behaviour("cli/clients", _README, "Other programs' files are changed with care, or not at all.", (
        "system/cli_clients::*",)),
    Behaviour("cli/doctor", _README, "Each fault that can be planted is found, with its fix.", (
        "system/cli_doctor::*", "unit/installed::*")),
    Behaviour("cli/first-minutes", _README, "A new user gets through the first ten minutes.", (
        "system/first_minutes::*",)),
    # ---- remote agents
    Behaviour("remote/truth", _REMOTE, "The task is the truth: streams may break, end and repeat.", (
        "unit/remote_streams::*",)),
    Behaviour("remote/guard", _REMOTE, "Requests stay on allowed origins, credentials on one, sizes below caps.", (
        "unit/remote_guard::*",)),
    Behaviour("remote/extension", _EXTENSION, "A directory is told only to cards that know the extension.", (
        "unit/remote_guard::the_directory_*",)),
    Behaviour("agents/conformance", "docs/conformance.md", "The test agent plays the script of A2A's own kit.", (
        "system/tck::*",)),
    # ---- settings, caps and trees
    Behaviour("settings/sources", _README, "Three sources, of which only the user's file can widen a cap; what is "
        "wrong is named.", ("unit/config::*",)),
    Behaviour("run/slots", _README, "Over a cap runs are queued by priority and age; who waits for its caller gives "
        "its slot back.", ("unit/slots::*", "unit/tree::over_the_cap_*", "unit/tree::a_run_that_was_queued_*")),
    Behaviour("run/tree", _README, "A child stays within its parent's permission and the caps of its tree.", (
        "unit/tree::*",)),
    # ---- crashes
    Behaviour("recovery/requeue", "docs/design/recovery.md", "What had not begun is started by the next owner.", (
        "unit/recovery::what_had_not_*", "unit/recovery::a_client_where_*", "unit/recovery::what_needs_no_*",
        "unit/recovery::a_run_that_waits_*", "unit/recovery::what_has_not_*", "unit/recovery::runs_of_a_session_*",
        "unit/reattach::a_token_*", "unit/recovery::credentials_*")),
    Behaviour("recovery/attach", "docs/design/recovery.md", "What runs elsewhere is found again, with nothing lost "
        "and nothing told twice.", (
        "unit/recovery::what_runs_elsewhere_is_found_*", "unit/recovery::a_request_*", "unit/reattach::*",
        "unit/recovery::time_*")),
    Behaviour("recovery/leave", "docs/design/recovery.md", "A server that ends leaves what runs elsewhere, and other "
        "directories' runs, alone.", (
        "unit/recovery::what_runs_elsewhere_is_left_*", "unit/recovery::a_server_for_one_*")),
    Behaviour("recovery/bulkhead", "docs/design/recovery.md", "One run that cannot be recovered harms no other, and "
        "nobody takes what is not theirs to take.", ("unit/recovery_faults::*",)),
    Behaviour("recovery/reap", "docs/design/recovery.md", "What a dead owner left of an agent is ended, and nobody "
        "else.", (
        "unit/recovery::what_a_dead_owner_*", "unit/recovery::a_process_that_only_*")),
    # ---- budgets, and being told
    Behaviour("budget/runs", _COMPLETION, "A run over its budget ends with its work kept, by one turn over at most.", (
        "unit/budgets::a_run_*", "unit/budgets::what_is_used_*", "unit/budgets::a_session_*",
        "unit/budgets::a_budget_that_*", "unit/budgets::checks_*", "system/budget_tree::a_run_*")),
    Behaviour("budget/trees", _COMPLETION, "Runs share the budgets of those above them; a child's own is reserved.", (
        "unit/budgets::children_*", "unit/budgets::a_childs_*", "unit/budgets::what_is_reserved_*",
        "unit/budgets::times_*", "unit/budgets::an_agent_that_*", "unit/budgets::a_tree_*", "unit/budgets::one_that_*",
        "unit/budgets::a_spawn_*", "unit/budgets::what_a_child_*", "unit/budgets::what_is_held_*",
        "unit/budgets::a_child_*", "unit/budgets::what_all_*",
        "unit/budgets::the_last_*", "unit/budgets::a_budget_of_*", "unit/budgets::no_order_*",
        "system/budget_tree::five_*", "system/budget_tree::a_childs_*")),
    Behaviour("budget/rate-limits", _COMPLETION, "A provider's limit holds a queue and fails no run.", (
        "unit/rate_limits::*", "system/*_errors::a_limit_of_*")),
    Behaviour("told/outbox", _COMPLETION, "The end of a run is told at least once, under one id, whoever is killed.", (
        "unit/outbox::*", "system/on_finish::*")),
    Behaviour("told/webhook", _COMPLETION, "A webhook is signed, bounded, and goes nowhere that it may not.", (
        "unit/webhook::*",)),
    Behaviour("told/resources", _COMPLETION, "Runs are resources, and whoever watches them hears of changes.", (
        "system/completion::runs_are_*", "system/completion::what_there_is_not_*", "system/completion::the_patch_*",
        "system/completion::a_session_hears_*", "system/completion::a_client_of_*", "system/completion::listening_*",
        "system/completion::subscriptions_*", "system/completion::who_only_*", "system/completion::a_handshake_*")),
    Behaviour("told/tasks", _COMPLETION, "Calls that wait are tasks to who declares them, across hosts.", (
        "system/completion::a_spawn_*", "system/completion::a_task_*", "system/completion::a_wait_*",
        "system/completion::a_cancelled_*", "system/completion::tasks_*", "system/completion::a_session_of_*",
        "system/completion::a_client_that_listens_*", "system/claude_tasks::*")),
    Behaviour("told/person", _COMPLETION, "The person at the client is asked, and what they say is the answer.", (
        "system/completion::a_person_*", "system/completion::who_says_*", "system/completion::in_the_newer_*",
        "system/completion::a_client_that_cannot_*", "system/completion::an_answer_*")),
    # ---- reliability
    Behaviour("kill/nothing-lost", "docs/reliability.notes.md", "Whoever is killed, whenever: nothing that was "
        "acknowledged is lost, nothing is told twice, and every run comes to rest.", (
        "system/kill::nothing_*",)),
    Behaviour("kill/steps", "docs/reliability.notes.md", "A process may die at each step of its work, and during "
        "recovery.", ("system/kill_steps::*",)),
    Behaviour("kill/oracle", "docs/reliability.notes.md", "The oracle finds each kind of loss that there is.", (
        "system/kill_oracle::*",)),
    Behaviour("kill/stopped-host", "docs/design/recovery.md", "Nobody is declared dead for being slow.", (
        "system/kill_faults::a_stopped_*",)),
    Behaviour("kill/strangers", "docs/design/recovery.md", "A run is recovered whoever its files name, and only its "
        "own agent is ended.", ("system/kill_faults::a_run_is_recovered_*", "system/kill_faults::an_agent_that_*")),
    Behaviour("kill/index", "docs/design/recovery.md", "A live run is in the index of live runs, also after it was "
        "recovered.", ("system/kill_faults::a_run_that_the_index_*",)),
    Behaviour("kill/two-servers", "docs/design/host.md", "A host and an in-process server share a directory.", (
        "system/kill_faults::a_host_and_*",)),
    Behaviour("kill/full-disk", _STORE, "A run that fills its disk ends, and the host's runs elsewhere go on.", (
        "system/kill_faults::a_run_that_fills_*",)),
    Behaviour("host/log", _README, "The log is JSON lines with the run's id on each.", ("unit/logs::*",)),
    # ---- the house
    Behaviour("house/direction", "CONTRIBUTING.md", "Rooms import in one direction; names are plain.", (
        "unit/house::*",)),
    Behaviour("house/bench", "CONTRIBUTING.md", "What is claimed is measured, with its limits, and can be compared.", (
        "system/bench::*",)),
    Behaviour("house/manifest", "CONTRIBUTING.md", "No behaviour without a test, no test without one.", (
        "unit/manifest::*",)),
)  # fmt: skip
