/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the telemetry of mesh sockets keeps, and how it is counted; nodeagent/bpf/mesh_sockets.py is the Python side. */
#ifndef NODEMESH_MESH_SOCKETS_H
#define NODEMESH_MESH_SOCKETS_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

/* Of the histograms: bucket i counts what is above the one before and at most 16 << i microseconds, the last one all that is longer. */
#define BUCKETS 22
#define FIRST_BOUND_US 16
#define MAX_WORKLOADS 4096
#define MAX_FLOWS 8192
#define MAX_FIGURES 16384
/* Two that look at a socket at the same time try again; a third never does. */
#define TRIES 4

enum role {
	ROLE_SOURCE,
	ROLE_DESTINATION,
	ROLES,
};

/* Whom sockets are counted for: the workload's network namespace (its cookie), and the address at the other end, IPv4 as ::ffff:a.b.c.d. */
struct flow_key {
	__u64 namespace;
	__u8 remote[16];
	__u32 role;
	__u32 unused;
};

/* Totals of a flow. Sums in microseconds. */
struct flow {
	__u64 connect[BUCKETS];
	__u64 connect_us;
	__u64 rtt[BUCKETS];
	__u64 rtt_us;
	__u64 retransmits;
	__u64 sent_bytes;
	__u64 received_bytes;
};

/* What is kept with a socket: what of it has been counted. */
struct watched {
	struct flow_key flow;
	__u64 cookie;
	__u64 started_ns;
	__u64 connect_us;
	__u64 retransmits;
	__u64 acknowledged_bytes;
	__u64 received_bytes;
};

/* The latest of a socket, for the log lines of connections that it carried. 0: not known. */
struct figures {
	__u64 connect_us;
	__u64 rtt_us;
	__u64 retransmits;
};

_Static_assert(sizeof(struct flow_key) == 32, "mesh_sockets.py packs it");
_Static_assert(sizeof(struct flow) == 8 * (2 * BUCKETS + 5), "mesh_sockets.py unpacks it");
_Static_assert(sizeof(struct figures) == 24, "mesh_sockets.py unpacks it");
_Static_assert(ROLES == 2, "mesh_sockets.py names each role");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct watched);
} watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FIGURES);
	__type(key, __u64);
	__type(value, struct figures);
} figures SEC(".maps");

/* What a socket says of itself. */
struct reading {
	__u64 rtt_us;
	__u64 retransmits;
	__u64 acknowledged_bytes;
	__u64 received_bytes;
};

static const struct flow NOTHING;
static const struct flow_key OTHERS;

/* Where a flow is counted: where there is no room for one more, with all others that found none. */
static __always_inline struct flow *flow_of(const struct flow_key *key)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, key);

	if (flow)
		return flow;
	bpf_map_update_elem(&flows, key, &NOTHING, BPF_NOEXIST);
	flow = bpf_map_lookup_elem(&flows, key);
	return flow ? flow : bpf_map_lookup_elem(&flows, &OTHERS);
}

static __always_inline __u32 bucket_of(__u64 us)
{
	__u32 bucket = 0;

	while (bucket < BUCKETS - 1 && us > (__u64)FIRST_BOUND_US << bucket)
		bucket++;
	return bucket;
}

static __always_inline void observe(__u64 *buckets, __u64 *sum_us, __u64 us)
{
	__u32 bucket = bucket_of(us);

	if (bucket >= BUCKETS)
		return;
	__sync_fetch_and_add(&buckets[bucket], 1);
	__sync_fetch_and_add(sum_us, us);
}

/* Adds what has come since it was last counted. A socket is looked at by its own processor and by the sampling one, which may have read
 * it earlier than the other: what goes back is not counted, nor is anything twice. */
static __always_inline void advance(__u64 *counted, __u64 now, __u64 *total)
{
	for (int i = 0; i < TRIES; i++) {
		__u64 before = *(volatile __u64 *)counted;

		if (now <= before)
			return;
		if (__sync_val_compare_and_swap(counted, before, now) == before) {
			__sync_fetch_and_add(total, now - before);
			return;
		}
	}
}

static __always_inline void show(const struct watched *of, const struct reading *now)
{
	struct figures latest = { of->connect_us, now->rtt_us, now->retransmits };
	/* Linux 6.1 takes no key from where an iterator has its values. */
	__u64 cookie = of->cookie;

	bpf_map_update_elem(&figures, &cookie, &latest, BPF_ANY);
}

static __always_inline void take(struct watched *of, const struct reading *now)
{
	struct flow_key key = of->flow;
	struct flow *flow = flow_of(&key);

	show(of, now);
	if (!flow)
		return;
	if (now->rtt_us)
		observe(flow->rtt, &flow->rtt_us, now->rtt_us);
	advance(&of->retransmits, now->retransmits, &flow->retransmits);
	advance(&of->acknowledged_bytes, now->acknowledged_bytes, &flow->sent_bytes);
	advance(&of->received_bytes, now->received_bytes, &flow->received_bytes);
}

#endif
