// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Steers what comes from outside to the ports of a host that are its units' into the proxy's listeners of each, and leaves all else.
 *
 * Attached once for all units of a network. Where a unit's listener is gone, the kernel is told that there is none: closed, not open.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "steering.h"
#include "units.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CLAIMS_ROOM);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct claim);
	__type(value, __u64);
} claims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, UNIT_SLOTS_ROOM);
	__type(key, struct unit_slot);
	__type(value, __u64);
} unit_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, UNITS_ROOM);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct unit_lookups);
} unit_lookups SEC(".maps");

static __always_inline __u64 *unit_of(struct bpf_sk_lookup *ctx)
{
	struct claim claim = { .port = ctx->local_port };
	__u64 *unit;

	SET_ADDRESS(claim.address, ctx->family == AF_INET6, ctx->local_ip4, ctx->local_ip6);
	unit = bpf_map_lookup_elem(&claims, &claim);
	if (unit)
		return unit;
	__builtin_memset(claim.address, 0, sizeof(claim.address));
	return bpf_map_lookup_elem(&claims, &claim);
}

/* A tunnel is for the mesh wherever it comes from. Plaintext from this host, the proxy's among it, is for the application. */
static __always_inline bool is_for_application(struct bpf_sk_lookup *ctx)
{
	return ctx->local_port != HBONE_PORT && (ctx->ingress_ifindex == LOOPBACK_IFINDEX || is_own(ctx));
}

static __always_inline enum unit_listener listener_for(struct bpf_sk_lookup *ctx)
{
	enum unit_listener family = ctx->family == AF_INET6;

	return ctx->local_port == HBONE_PORT ? UNIT_HBONE + family : UNIT_INBOUND + family;
}

static __always_inline bool assign(struct bpf_sk_lookup *ctx, __u64 unit, enum unit_listener wanted)
{
	struct unit_slot key = { .unit = unit, .listener = wanted };
	struct bpf_sock *listener = bpf_map_lookup_elem(&unit_slots, &key);
	long error;

	if (!listener)
		return false;
	/* Over what the program of the whole host chose. */
	error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(listener);
	return !error;
}

static __always_inline void count(__u64 unit, enum unit_listener wanted, bool assigned)
{
	struct unit_lookups *lookups = bpf_map_lookup_elem(&unit_lookups, &unit);

	if (!lookups)
		return;
	if (!assigned)
		lookups->closed++;
	else if (wanted >= UNIT_HBONE)
		lookups->hbone++;
	else
		lookups->inbound++;
}

SEC("sk_lookup")
int steer_units(struct bpf_sk_lookup *ctx)
{
	enum unit_listener wanted = listener_for(ctx);
	bool assigned;
	__u64 *unit;

	if (ctx->protocol != IPPROTO_TCP || is_for_application(ctx))
		return SK_PASS;
	unit = unit_of(ctx);
	if (!unit)
		return SK_PASS;
	assigned = assign(ctx, *unit, wanted);
	count(*unit, wanted, assigned);
	return assigned ? SK_PASS : SK_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
