"""Rules about what starts the pod again, how often, and what counts: F3, F8 to F12, F24, F25, F29.

Each rule takes a workload and yields findings; it is pure. The rules of the container are ``rules_pod.py``'s, those of
storage and permissions ``rules_safety.py``'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from .pod import AGAIN, HOPELESS
from .workload import FOR_EVER, Finding, Level, Workload, exit_codes_in, items, mapping

ROOM_FOR_RESIZES = 3
_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "busybox")


def runs_for_ever(w: Workload) -> Iterator[Finding]:
    """F29."""
    if w.kind in FOR_EVER:
        why = "it starts the finished job again, for ever (F29)"
        yield Finding("runs-for-ever", Level.FAIL, w.place, f"a {w.kind} runs it", why, "make it a Job or a CronJob")
    elif w.kind == "Pod" and w.restart_policy == "Always":
        why = "it starts the finished job again, for ever (F29)"
        remedy = "make it a Job with OnFailure, or say restartPolicy: Never"
        yield Finding("runs-for-ever", Level.FAIL, w.place, "a bare Pod with restartPolicy Always", why, remedy)
    elif w.is_job and w.restart_policy not in ("OnFailure", "Never"):
        why = "the API server takes OnFailure and Never only (422)"
        yield Finding("runs-for-ever", Level.FAIL, w.place, f"restartPolicy {w.restart_policy}", why, "say OnFailure")


def never_with_restart(w: Workload) -> Iterator[Finding]:
    """F9."""
    if w.restart_policy == "Never" and w.restarts_for_memory:
        why = "the API server refuses it: must be 'NotRequired' when pod restartPolicy is 'Never' (422, F9)"
        remedy = "use OnFailure with RestartContainer, or NotRequired with Never"
        yield Finding(
            "never-with-restart", Level.FAIL, w.place, "resizePolicy RestartContainer with Never", why, remedy
        )


def room_for_resizes(w: Workload) -> Iterator[Finding]:
    """F8."""
    if not w.is_job or not w.restarts_for_memory or w.restart_policy != "OnFailure":
        return
    sidecars, pods = _sidecars(w), w.pods_at_once
    room, enough = w.backoff_limit - 1, _enough(w)
    if w.backoff_limit >= enough:
        return
    why = "every resize with RestartContainer is a restart, and the Job is failed when restarts reach backoffLimit (F8)"
    if pods > 1:
        why += f"; the restarts of all {pods} pods are added up"
    if sidecars:
        why += "; restarts of sidecars count, too"
    what = f"backoffLimit {w.backoff_limit} leaves room for {max(room, 0)} restarts"
    level = Level.FAIL if room < pods else Level.WARN
    remedy = f"set backoffLimit to {enough} or more, or resize live (NotRequired)"
    yield Finding("room-for-resizes", level, w.place, what, why, remedy)


def _sidecars(w: Workload) -> int:
    return sum(one.get("restartPolicy") == "Always" for one in items(w.pod, "initContainers"))


def _enough(w: Workload) -> int:
    """The ``backoffLimit`` with room for some resizes of each pod."""
    return ROOM_FOR_RESIZES * w.pods_at_once + _sidecars(w) + 1


def backoff_limit_is_told(w: Workload) -> Iterator[Finding]:
    """F8: a pod can't read its Job."""
    told = w.env("ETLKIT_BACKOFF_LIMIT")
    if not w.is_job or not w.restarts_for_memory or told == str(_share(w, w.backoff_limit)):
        return
    said = "does not know" if told is None else f"is told {told} for"
    why = "with a wrong number the job asks for one resize too many, and that fails the Job (F8)"
    raised = max(w.backoff_limit, _enough(w)) if w.restart_policy == "OnFailure" else w.backoff_limit
    remedy = f'set ETLKIT_BACKOFF_LIMIT to "{_share(w, raised)}"' + (", a pod's share" if w.pods_at_once > 1 else "")
    if raised != w.backoff_limit:
        remedy += f", once backoffLimit is {raised} (see room-for-resizes)"
    yield Finding(
        "backoff-limit-told", Level.FAIL, w.place, f"the pod {said} backoffLimit {w.backoff_limit}", why, remedy
    )


def _share(w: Workload, backoff_limit: int) -> int:
    return (backoff_limit - 1) // w.pods_at_once + 1


def failure_policy(w: Workload) -> Iterator[Finding]:
    """F25."""
    rules = items(mapping(w.spec, "podFailurePolicy"), "rules")
    if not w.is_job:
        return
    if w.restart_policy == "OnFailure":
        if "podFailurePolicy" in w.spec:
            why = "the API server takes podFailurePolicy with restartPolicy Never only (F25)"
            remedy = "drop it: etlkit writes a failure for good into the state, and later starts end at once"
            yield Finding("failure-policy", Level.FAIL, w.place, "podFailurePolicy with OnFailure", why, remedy)
        return
    ignored: set[int] = set()
    fatal: set[int] = set()
    drained = False
    for rule in rules:
        values = set(exit_codes_in(mapping(rule, "onExitCodes")))
        ignored |= values if rule.get("action") == "Ignore" else set()
        fatal |= values if rule.get("action") in ("FailJob", "FailIndex") else set()
        drained |= rule.get("action") == "Ignore" and any(
            c.get("type") == "DisruptionTarget" for c in items(rule, "onPodConditions")
        )
    if AGAIN in fatal:
        why = "75 means checkpointed, work left: the Job would be failed where it only has to go on"
        yield Finding("failure-policy", Level.FAIL, w.place, "FailJob for exit 75", why, "use Ignore for 75")
    if AGAIN not in ignored or not drained:
        missing = ["exit 75"] * (AGAIN not in ignored) + ["condition DisruptionTarget"] * (not drained)
        why = "every interruption, a drain among them, then counts against backoffLimit (F25)"
        remedy = "add rules with action Ignore for exit 75 and for condition DisruptionTarget"
        what = f"podFailurePolicy does not ignore {' and '.join(missing)}"
        yield Finding("failure-policy", Level.WARN, w.place, what, why, remedy)
    left = [str(code) for code in HOPELESS if code not in fatal]
    if left:
        why = "the pod is replaced, with back-off, until backoffLimit, and ends in the same way each time"
        remedy = "add a rule with action FailJob for 2, 65, 77 and 78"
        what = f"podFailurePolicy does not fail the Job for exit {', '.join(left)}"
        yield Finding("failure-policy", Level.WARN, w.place, what, why, remedy)


def one_pod_at_a_time(w: Workload) -> Iterator[Finding]:
    """F24."""
    if w.is_job and w.spec.get("podReplacementPolicy") != "Failed":
        # Where there is a podFailurePolicy, Failed is the default and the only value.
        if "podFailurePolicy" in w.spec and "podReplacementPolicy" not in w.spec:
            return
        why = "the replacement of a drained pod starts while the old one still writes (F24)"
        remedy = "set podReplacementPolicy: Failed"
        yield Finding("one-pod", Level.FAIL, w.place, "podReplacementPolicy is not Failed", why, remedy)
    if w.is_job and not w.indexed and w.spec.get("parallelism", 1) not in (0, 1):
        why = "they would all work on one state: one runs, the others end with 73"
        yield Finding(
            "one-pod",
            Level.FAIL,
            w.place,
            "several pods in parallel",
            why,
            "set parallelism: 1, or completionMode: Indexed",
        )
    shared = any(word.startswith("--shards") for word in w.command)
    if w.indexed and not shared and "JOB_COMPLETION_INDEX" not in (w.state or ""):
        why = "all indexes would work on one state: one runs, the others end with 73"
        remedy = (
            "give each its own: --state=/data/state/NAME-$(JOB_COMPLETION_INDEX); or let them share one run: --shards=N"
        )
        yield Finding("one-pod", Level.FAIL, w.place, "an Indexed Job with one state for all", why, remedy)
    if shared and (not w.indexed or w.shards != w.spec.get("completions")):
        why = "each of the shares must be one index of an Indexed Job: with fewer the run is never whole"
        what = f"--shards {w.shards} with completions {w.spec.get('completions')}, mode {w.spec.get('completionMode')}"
        remedy = "set completionMode: Indexed, and completions to the number of shards"
        yield Finding("one-pod", Level.FAIL, w.place, what, why, remedy)
    if w.cron is not None and w.cron.get("concurrencyPolicy") != "Forbid":
        why = "a run that is late is joined, or cut off, by the next on the same state"
        yield Finding(
            "one-pod", Level.FAIL, w.place, "concurrencyPolicy is not Forbid", why, "set concurrencyPolicy: Forbid"
        )


def restart_rules(w: Workload) -> Iterator[Finding]:
    """F10, F11."""
    if "restartPolicyRules" not in w.container:
        return
    codes = w.exit_codes()
    if not w.container.get("restartPolicy"):
        why = "the API server takes the rules only beside the container's own restartPolicy"
        yield Finding(
            "restart-rules",
            Level.FAIL,
            w.place,
            "restartPolicyRules without restartPolicy",
            why,
            "add restartPolicy: Never to the container",
        )
    if AGAIN not in codes:
        why = "75 (checkpointed, work left) would not be started again in place (F10)"
        yield Finding(
            "restart-rules", Level.FAIL, w.place, "restartPolicyRules without exit 75", why, "add 75 to values"
        )
    wrong = [str(code) for code in codes if code in (0, *HOPELESS)]
    if wrong:
        why = "0 is done, and the others end the same way at each start"
        yield Finding(
            "restart-rules", Level.FAIL, w.place, f"restart for exit {', '.join(wrong)}", why, "keep 75 alone"
        )


def exit_codes_arrive(w: Workload) -> Iterator[Finding]:
    """F12: exit 0 with work left completes the Job."""
    words = w.command
    first = words[0].rpartition("/")[2] if words else ""
    if first in _SHELLS or (first == "env" and any(word.rpartition("/")[2] in _SHELLS for word in words)):
        why = "a shell keeps SIGTERM to itself, and may turn an exit code into 0: then the Job is Complete with work left (F12)"
        remedy = 'call etlkit itself: command: ["etlkit", "run", …]'
        yield Finding("exit-codes", Level.FAIL, w.place, "etlkit is started through a shell", why, remedy)


def grace(w: Workload) -> Iterator[Finding]:
    """F3."""
    given = w.pod.get("terminationGracePeriodSeconds", 30)
    if isinstance(given, int) and given < 30:
        why = "the last checkpoint must be written between SIGTERM and SIGKILL; what is not saved is done again (F3)"
        level = Level.FAIL if given < 5 else Level.WARN
        yield Finding("grace", level, w.place, f"terminationGracePeriodSeconds {given}", why, "set it to 30 or more")
    if "preStop" in mapping(w.container, "lifecycle"):
        why = "it uses up the grace period before SIGTERM is sent (F3)"
        yield Finding("grace", Level.WARN, w.place, "a preStop hook", why, "drop it: etlkit saves on SIGTERM")


RULES = (
    runs_for_ever,
    never_with_restart,
    room_for_resizes,
    backoff_limit_is_told,
    failure_policy,
    one_pod_at_a_time,
    restart_rules,
    exit_codes_arrive,
    grace,
)
