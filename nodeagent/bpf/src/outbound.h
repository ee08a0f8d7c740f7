/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs of a workload's cgroup share with each other and with their Python side, nodeagent/bpf/outbound.py. */
#ifndef NODEMESH_OUTBOUND_H
#define NODEMESH_OUTBOUND_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

/* What was made of a connection: the first ones leave it to the rules of the network namespace, then it goes past the proxy, or to it. */
enum outcome {
	OUTCOME_ELSEWHERE,
	OUTCOME_FOREIGN,
	OUTCOME_DEVICE,
	OUTCOME_LOCAL,
	OUTCOME_FAILED,
	OUTCOME_EXCLUDED,
	OUTCOME_OUTSIDE,
	OUTCOME_CAPTURED,
	OUTCOMES,
};

/* What the workload's terms say of a port, or of a range of addresses. */
enum term {
	TERM_NONE,
	TERM_EXCLUDED,
	TERM_INCLUDED,
};

#define SETTING_ACTIVE 1 /* else the tables are being changed, and all is captured */
#define SETTING_INCLUDE_REST 2 /* what no term is about is captured */
#define SETTING_ALONE 4 /* there are no rules that would capture what has no mark: whatever could be left to them is marked, too */

#define OUTCOMES_ROOM 64
#define PORTS_ROOM 1024
#define RANGES_ROOM 4096
#define OUTSIDE_ROOM 1024

struct settings {
	__u64 netns_cookie; /* of the namespace that the workload has; its processes may have sockets of others */
	__u64 place; /* the workload's, as the agent finds it again */
	__u32 captured_mark;
	__u32 past_mark;
	__u32 flags;
	__u32 reserved;
};

/* IPv4 is mapped into IPv6, as is everything that names an address here. */
struct destination {
	__u8 address[16];
	__u16 port; /* in the order of the machine */
	__u16 reserved;
};

struct range {
	__u32 prefix_bits;
	__u8 address[16];
};

/* Per CPU and outcome. */
struct connections {
	__u64 count;
};

_Static_assert(OUTCOMES == 8 && OUTCOMES <= OUTCOMES_ROOM, "outbound.py names each outcome");
_Static_assert(sizeof(struct settings) == 32, "outbound.py packs it as QQIIII");
_Static_assert(sizeof(struct destination) == 20, "outbound.py packs it as 16sHH");
_Static_assert(sizeof(struct range) == 20, "outbound.py packs it as I16s");
_Static_assert(sizeof(struct connections) == 8, "outbound.py reads it as one 64-bit number");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

#endif
