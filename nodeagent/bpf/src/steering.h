/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the steering program shares with its Python side, nodeagent/bpf/steering.py: the order of slots and of reasons. */
#ifndef NODEMESH_STEERING_H
#define NODEMESH_STEERING_H

#include <linux/types.h>

#include "flow.h"

/* The loopback device has this number in every network namespace. */
#define LOOPBACK_IFINDEX 1
#define LOOPBACK4 0x7f000001
#define HBONE_PORT 15008

/* Whose listener a slot holds. */
enum slot {
	SLOT_INBOUND,
	SLOT_INBOUND6,
	SLOT_HBONE,
	SLOT_PROBE,
	SLOT_PROBE6,
	SLOTS,
};

/* Why a lookup ended as it did. New ones come last: another version may take over the map that counts them. */
enum reason {
	/* These three leave it to the kernel. */
	REASON_NOT_TCP,
	REASON_LOOPBACK,
	REASON_OWN,
	/* These two give it to the proxy. */
	REASON_INBOUND,
	REASON_HBONE,
	/* These two refuse it. */
	REASON_NO_LISTENER,
	REASON_NOT_ASSIGNED,
	/* By policy, once for each packet; the second is another look at one of those. */
	REASON_DENIED,
	REASON_DENIED_SAME,
	/* The kubelet's: left to the kernel, after the rules, which look ahead of TCP, were told by a listener. */
	REASON_PROBE,
	REASON_PROBE_TOLD,
	/* These two leave it to the application, as the workload's terms have it. */
	REASON_LEFT_ALONE,
	REASON_OPEN,
	/* The rules ask whether the proxy listens. */
	REASON_ASKED,
	/* A unit's, of a host that is captured as a whole: another program has found its listener. */
	REASON_CLAIMED,
	REASONS,
};

/* Per CPU and reason. */
struct lookups {
	__u64 count;
};

/* Whether it comes from the very address that it goes to. Nothing from outside does: its answer would never leave the pod. */
static __always_inline bool is_own(struct bpf_sk_lookup *ctx)
{
	if (ctx->family != AF_INET6)
		return ctx->remote_ip4 == ctx->local_ip4;
	return ctx->remote_ip6[0] == ctx->local_ip6[0] && ctx->remote_ip6[1] == ctx->local_ip6[1] &&
	       ctx->remote_ip6[2] == ctx->local_ip6[2] && ctx->remote_ip6[3] == ctx->local_ip6[3];
}

/* Room for those of later versions: a map that were as large as its enumeration could not be taken over by another version. */
#define SLOTS_ROOM 16
#define REASONS_ROOM 64

_Static_assert(SLOTS <= SLOTS_ROOM && REASONS <= REASONS_ROOM, "raising the room makes another layout");
_Static_assert(SLOTS == 5, "steering.py names each slot");
_Static_assert(REASONS == 15, "steering.py names each reason");
_Static_assert(sizeof(struct lookups) == 8, "steering.py reads it as one 64-bit number");

#endif
