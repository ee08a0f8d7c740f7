// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Records the connections that the kubelet's processes begin, from before the first packet until they end.
 *
 * Runs for the TCP sockets of one cgroup, the kubelet's: what is in the table is its own, whatever others on the host call themselves.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "probes.h"
#include "recording.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECORDINGS_ROOM);
	__type(key, __u32);
	__type(value, __u64);
} recordings SEC(".maps");

static __always_inline void count(enum recording recording)
{
	__u32 key = recording;
	__u64 *counted = bpf_map_lookup_elem(&recordings, &key);

	if (counted)
		(*counted)++;
}

/* False: neither of the address families that pods have. */
static __always_inline bool read_flow(struct bpf_sock_ops *ctx, struct flow *flow)
{
	bool is_ipv6 = ctx->family == AF_INET6;

	if (!is_ipv6 && ctx->family != AF_INET)
		return false;
	SET_ADDRESS(flow->client, is_ipv6, ctx->local_ip4, ctx->local_ip6);
	SET_ADDRESS(flow->server, is_ipv6, ctx->remote_ip4, ctx->remote_ip6);
	flow->client_port = ctx->local_port;
	flow->server_port = bpf_ntohl(ctx->remote_port);
	return true;
}

static __always_inline enum recording begin(struct bpf_sock_ops *ctx)
{
	struct probe probe = { .began_ns = bpf_ktime_get_ns(), .told_ns = 0 };
	struct flow flow;

	if (!read_flow(ctx, &flow))
		return RECORDING_OTHER_FAMILY;
	/* Only what will be taken out again is put in. */
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		return RECORDING_UNWATCHED;
	if (bpf_map_update_elem(&probes, &flow, &probe, BPF_ANY))
		return RECORDING_NO_ROOM;
	return RECORDING_BEGAN;
}

static __always_inline void end(struct bpf_sock_ops *ctx)
{
	struct flow flow;

	if (read_flow(ctx, &flow) && !bpf_map_delete_elem(&probes, &flow))
		count(RECORDING_ENDED);
}

SEC("sockops")
int record_kubelet(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		count(begin(ctx));
	else if (ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE)
		end(ctx);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
