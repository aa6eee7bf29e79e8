"""The rules of acceptance that come with arf; they live in `arf.judge`."""

from arf.hooks import Declaration, hookimpl


@hookimpl
def arf_register_accept_rules() -> list[Declaration]:
    return [
        Declaration(
            name="evidence",
            summary="the incumbent is what all runs so far say is best; it may change back",
            implementation="arf.judge.evidence:Evidence",
        ),
        Declaration(
            name="lower",
            summary="whatever reads better than the incumbent is accepted, as autoresearch does",
            implementation="arf.judge.lower:Lower",
        ),
        Declaration(
            name="proof",
            summary="a change is accepted once it is proven, by replicates of it and of the incumbent",
            implementation="arf.judge.proof:Proof",
        ),
    ]
