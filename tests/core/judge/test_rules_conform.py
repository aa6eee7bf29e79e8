"""The rules that come with arf are what the suite asks of any."""

from arf.interfaces import AcceptRule
from arf.judge.evidence import Evidence
from arf.judge.lower import Lower
from arf.judge.proof import Proof
from arf.testing.suites.accept import AcceptRuleSuite


class TestEvidence(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Evidence()


class TestLower(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Lower()


class TestProof(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Proof()
