// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Steers what comes to a workload into the proxy's listeners, whoever else listens on the port.
 *
 * Runs where the kernel looks for the listener of a TCP connection: for handshakes, and for whatever else belongs to no connection that
 * the kernel knows, such as a cookie. Where the proxy's listener is gone, the kernel is told that there is none: closed, not open.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "prefilter.h"
#include "probes.h"
#include "steering.h"
#include "terms.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SLOTS_ROOM);
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS_ROOM);
	__type(key, __u32);
	__type(value, struct lookups);
} reasons SEC(".maps");

static __always_inline enum reason count(enum reason reason)
{
	__u32 key = reason;
	struct lookups *lookups = bpf_map_lookup_elem(&reasons, &key);

	if (lookups)
		lookups->count++;
	return reason;
}

static __always_inline enum slot slot_of(__u32 family, __u32 port)
{
	if (port == HBONE_PORT)
		return SLOT_HBONE;
	return family == AF_INET6 ? SLOT_INBOUND6 : SLOT_INBOUND;
}

static __always_inline enum reason reason_of(enum slot slot)
{
	switch (slot) {
	case SLOT_HBONE:
		return REASON_HBONE;
	case SLOT_PROBE:
	case SLOT_PROBE6:
		return REASON_PROBE_TOLD;
	default:
		return REASON_INBOUND;
	}
}

static __always_inline enum reason assign(struct bpf_sk_lookup *ctx, enum slot slot)
{
	__u32 key = slot;
	struct bpf_sock *listener = bpf_map_lookup_elem(&slots, &key);
	long error;

	if (!listener)
		return REASON_NO_LISTENER;
	/* Over what another program chose: nobody goes past. */
	error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(listener);
	if (error)
		return REASON_NOT_ASSIGNED;
	return reason_of(slot);
}

/* HBONE is the mesh's own, and never open. */
static __always_inline enum reason assign_or_open(struct bpf_sk_lookup *ctx)
{
	enum slot slot = slot_of(ctx->family, ctx->local_port);
	enum reason reason;

	if (slot == SLOT_HBONE)
		return assign(ctx, slot);
	if (is_open(true))
		return REASON_OPEN;
	reason = assign(ctx, slot);
	return reason == REASON_NO_LISTENER && is_open(false) ? REASON_OPEN : reason;
}

/* Whether it is to an address that nothing from outside is for: the rules ask so for a listener. They are given it as everybody is. */
static __always_inline bool is_asked(struct bpf_sk_lookup *ctx)
{
	if (ctx->family != AF_INET6)
		return ctx->local_ip4 == bpf_htonl(LOOPBACK4);
	return !ctx->local_ip6[0] && !ctx->local_ip6[1] && !ctx->local_ip6[2] && ctx->local_ip6[3] == bpf_htonl(1);
}

static __always_inline enum reason steer(struct bpf_sk_lookup *ctx)
{
	struct probe *probe;
	enum reason reason;

	if (ctx->protocol != IPPROTO_TCP)
		return REASON_NOT_TCP;
	/* Loopback addresses, and what the proxy brings to the application as its client. */
	if (ctx->ingress_ifindex == LOOPBACK_IFINDEX)
		return REASON_LOOPBACK;
	/* What the proxy sends to the pod's own addresses comes by the loopback device, too, but is accounted to the one that has them. */
	if (is_own(ctx))
		return REASON_OWN;
	/* A unit of the host, whose port it is: see steer_units.bpf.c. */
	if (ctx->sk && is_shared())
		return REASON_CLAIMED;
	probe = probe_of(ctx);
	if (probe) {
		if (is_told(probe))
			return REASON_PROBE;
		reason = assign(ctx, ctx->family == AF_INET6 ? SLOT_PROBE6 : SLOT_PROBE);
		if (reason == REASON_PROBE_TOLD) {
			probe->told_ns = bpf_ktime_get_ns();
			return reason;
		}
		/* Nothing stands for probes here: this is one connection like others. */
	}
	if (is_left_alone(ctx->local_port))
		return REASON_LEFT_ALONE;
	if (is_denied(ctx, &reason))
		return reason;
	reason = assign_or_open(ctx);
	return reason == REASON_INBOUND && is_asked(ctx) ? REASON_ASKED : reason;
}

static __always_inline bool refused(enum reason reason)
{
	return reason == REASON_NO_LISTENER || reason == REASON_NOT_ASSIGNED || reason == REASON_DENIED || reason == REASON_DENIED_SAME;
}

SEC("sk_lookup")
int steer_inbound(struct bpf_sk_lookup *ctx)
{
	return refused(count(steer(ctx))) ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
