/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kubelet's own connections, by which its probes are known: one table of the node, written by record_kubelet.bpf.c as they begin and
 * end, read where a pod's listener is looked for. nodeagent/bpf/kubelet.py is its Python side.
 */
#ifndef NODEMESH_PROBES_H
#define NODEMESH_PROBES_H

#include <stdbool.h>
#include <stddef.h>

#include "flow.h"
#include "steering.h"

/* Those that begin within PROBE_NS, many times over. Whatever is pushed out is no probe any more: closed, not open. */
#define PROBES_ROOM 8192

/* A handshake takes no longer, tries included. That its connection has ended is told by a callback that whoever else has a program on the
 * kubelet's cgroup can switch off: what stayed behind for that must not hold for the next who gets the port.
 */
#define PROBE_NS 130000000000ULL

/* Between two lookups for one packet: the second comes in the same turn of the kernel. */
#define TURN_NS 10000000ULL

/* Times are on the monotonic clock. */
struct probe {
	/* When its connecting began. */
	__u64 began_ns;
	/* When the rules were told that it is a probe; 0 when TCP has been, too. */
	__u64 told_ns;
};

_Static_assert(sizeof(struct probe) == 16, "nobody but these programs reads it");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PROBES_ROOM);
	__type(key, struct flow);
	__type(value, struct probe);
} probes SEC(".maps");

/* The record of the connection, if it is one that the kubelet has begun. A call to 15008 is for the mesh, whoever makes it. */
static __always_inline struct probe *probe_of(struct bpf_sk_lookup *ctx)
{
	struct probe *probe;
	struct flow flow;

	if (ctx->local_port == HBONE_PORT)
		return NULL;
	read_lookup(ctx, &flow);
	probe = bpf_map_lookup_elem(&probes, &flow);
	return probe && bpf_ktime_get_ns() - probe->began_ns < PROBE_NS ? probe : NULL;
}

/* Each packet of a probe is looked up twice: by the rules of the pod, which want to know whose socket it is for, then by TCP. The rules
 * are given the listener that stands for probes, from whose mark they learn that this is one; then TCP finds the application's own, so
 * that a port that is closed is closed to the kubelet, too. If anything else looks in between, the turns are wrong for once: the rules
 * then refuse the probe, or the listener that stands for probes gets it, behind which the proxy carries it.
 */
static __always_inline bool is_told(struct probe *probe)
{
	__u64 told_ns = probe->told_ns;

	probe->told_ns = 0;
	return bpf_ktime_get_ns() - told_ns < TURN_NS;
}

#endif
