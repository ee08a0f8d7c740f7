"""Names of machines: what they say is what was put in, and no node of a cluster has one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.spiffe import AgentIdentity, IdentityError
from meshapi.vm import GroupName, VMName, is_vm, parse_vm

NAMES = st.from_regex(re.compile(r"[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?", re.ASCII), fullmatch=True)
GROUPS = st.lists(st.builds(GroupName, NAMES, NAMES), min_size=1, max_size=4, unique=True).map(tuple)


@given(NAMES, GROUPS)
def test_a_name_says_its_groups_again(name: str, groups: tuple[GroupName, ...]) -> None:
    made = VMName.make(name, groups)
    assert parse_vm(made.node) == made
    assert is_vm(made.node)
    assert AgentIdentity.parse(str(AgentIdentity("cluster.local", made.node))).node == made.node


@given(NAMES)
def test_no_node_of_a_cluster_is_one(name: str) -> None:
    assert parse_vm(name) is None
    assert not is_vm(name)


@pytest.mark.parametrize(
    "node", ["vm_", "vm_a", "vm_a_b", "vm_a_b_c_d", "vm_a_b_", "vm__b_c", "vm_A_b_c", "vm_a_b_c_b_c", "vm_a_.._c", "VM_a_b_c"]
)
def test_what_is_no_name_is_no_machine(node: str) -> None:
    assert parse_vm(node) is None


@pytest.mark.parametrize("text", ["", "a", "a/", "/a", "a/b/c", "a_b/c", "A/b", "a/b\n", "a/.."])
def test_what_is_no_group(text: str) -> None:
    with pytest.raises(IdentityError):
        GroupName.parse(text)


def test_a_machine_has_groups_each_once() -> None:
    group = GroupName("a", "b")
    for groups in ((), (group, group), tuple(GroupName("a", f"g{index}") for index in range(17))):
        with pytest.raises(IdentityError):
            VMName.make("vm", groups)
