// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts the proxy's connections between workloads: how long connecting took, and at their end what TCP knows of them.
 *
 * Runs for the sockets of a cgroup, the agent's. What is not the proxy's, in the namespace of a workload of this agent, is left after a
 * look at its mark; of the others only the changes of state and what is sent again are asked for, not each round trip.
 */
#include "mesh_sockets.h"

#define MARK_OWN 0x539
#define MARK_BITS 0xfff
#define HBONE_PORT 15008
/* <sys/socket.h> has it, and needs the C library of a machine that eBPF is not. */
#define AF_INET6 10
/* Of the kernel's smoothed round trip time. */
#define RTT_SHIFT 3
#define NS_PER_US 1000
#define CALLBACKS (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG)

/* Of this agent, by the cookies of their namespaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u64);
	__type(value, __u8);
} workloads SEC(".maps");

static __always_inline bool is_proxys(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk && (sk->mark & MARK_BITS) == MARK_OWN;
}

static __always_inline void read_remote(struct bpf_sock_ops *ctx, __u8 remote[16])
{
	__u32 *words = (__u32 *)remote;

	if (ctx->family == AF_INET6) {
		words[0] = ctx->remote_ip6[0];
		words[1] = ctx->remote_ip6[1];
		words[2] = ctx->remote_ip6[2];
		words[3] = ctx->remote_ip6[3];
		/* Of this and the last one below the compiler would make one read through a pointer, which the verifier refuses. */
		asm volatile("" ::: "memory");
	} else {
		remote[10] = remote[11] = 0xff;
		words[3] = ctx->remote_ip4;
	}
}

static __always_inline struct watched *of_socket(struct bpf_sock_ops *ctx, struct watched *initial)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&watched, sk, initial, initial ? BPF_SK_STORAGE_GET_F_CREATE : 0) : NULL;
}

static __always_inline void watch(struct bpf_sock_ops *ctx, enum role role)
{
	struct watched initial = {
		.flow = { .namespace = bpf_get_netns_cookie(ctx), .role = role },
		.cookie = bpf_get_socket_cookie(ctx),
		.started_ns = bpf_ktime_get_ns(),
	};

	if (!bpf_map_lookup_elem(&workloads, &initial.flow.namespace))
		return;
	read_remote(ctx, initial.flow.remote);
	if (of_socket(ctx, &initial))
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | CALLBACKS);
}

static __always_inline struct reading read(struct bpf_sock_ops *ctx)
{
	return (struct reading){ ctx->srtt_us >> RTT_SHIFT, ctx->total_retrans, ctx->bytes_acked, ctx->bytes_received };
}

/* The handshake is over, and its acknowledgement was of no byte. */
static __always_inline void begin(struct bpf_sock_ops *ctx, struct watched *of)
{
	struct reading now = read(ctx);

	of->acknowledged_bytes = now.acknowledged_bytes;
	show(of, &now);
}

static __always_inline void connected(struct bpf_sock_ops *ctx)
{
	struct watched *of = of_socket(ctx, NULL);
	struct flow *flow;

	if (!of)
		return;
	of->connect_us = (bpf_ktime_get_ns() - of->started_ns) / NS_PER_US;
	begin(ctx, of);
	flow = flow_of(&of->flow);
	if (flow)
		observe(flow->connect, &flow->connect_us, of->connect_us);
}

static __always_inline void accepted(struct bpf_sock_ops *ctx)
{
	struct watched *of;

	watch(ctx, ROLE_DESTINATION);
	of = of_socket(ctx, NULL);
	if (of)
		begin(ctx, of);
}

/* Losses are rare, and the log lines of the connections that they delay come soon. */
static __always_inline void sent_again(struct bpf_sock_ops *ctx)
{
	struct watched *of = of_socket(ctx, NULL);
	struct reading now;

	if (!of)
		return;
	now = read(ctx);
	show(of, &now);
}

static __always_inline void changed(struct bpf_sock_ops *ctx)
{
	struct watched *of = ctx->args[1] == BPF_TCP_CLOSE ? of_socket(ctx, NULL) : NULL;
	struct reading now;

	if (!of)
		return;
	now = read(ctx);
	take(of, &now);
}

SEC("sockops")
int mesh_sockets(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (is_proxys(ctx))
			watch(ctx, ROLE_SOURCE);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (ctx->local_port == HBONE_PORT && is_proxys(ctx))
			accepted(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (is_proxys(ctx))
			connected(ctx);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		sent_again(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		changed(ctx);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
