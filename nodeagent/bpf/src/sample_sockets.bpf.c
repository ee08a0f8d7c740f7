// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts what the open connections of mesh_sockets.bpf.c have done so far, whenever the agent asks: a tunnel may live for weeks.
 *
 * Walks the storage that those sockets have, in whatever namespace they are, and no other socket.
 */
#include "mesh_sockets.h"

#define RTT_SHIFT 3

/* The kernel's, as far as they are read; where the fields are is found when the program is loaded. */
struct sock {
} __attribute__((preserve_access_index));

struct tcp_sock {
	__u32 srtt_us;
	__u32 total_retrans;
	__u64 bytes_acked;
	__u64 bytes_received;
} __attribute__((preserve_access_index));

struct bpf_iter_meta;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
};

SEC("iter/bpf_sk_storage_map")
int sample_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct watched *of;
	struct tcp_sock *tcp;
	struct reading now;

	if (!sk)
		return 0;
	/* As the walk itself gives it, older kernels (6.1) take no part of it for the key of a map. */
	of = bpf_sk_storage_get(&watched, sk, 0, 0);
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!of || !tcp)
		return 0;
	now = (struct reading){ tcp->srtt_us >> RTT_SHIFT, tcp->total_retrans, tcp->bytes_acked, tcp->bytes_received };
	take(of, &now);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
