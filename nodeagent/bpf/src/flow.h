/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A TCP connection in one form, whichever hook sees it: addresses of 16 bytes, those of IPv4 mapped, ports in the machine's order. */
#ifndef NODEMESH_FLOW_H
#define NODEMESH_FLOW_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* <sys/socket.h> has them, and needs the C library of a machine that eBPF is not. */
#define AF_INET 2
#define AF_INET6 10

/* Words are as they are on the wire. The client is who began it. */
struct flow {
	__u32 client[4];
	__u32 server[4];
	__u16 client_port;
	__u16 server_port;
};

_Static_assert(sizeof(struct flow) == 36, "without gaps: it is a key, compared byte by byte");

/* Sets an address from the words of a context, all of which are read, whichever family it is: the verifier refuses what compilers make of
 * two branches that each read some.
 */
#define SET_ADDRESS(address, is_ipv6, ip4, ip6)                                                     \
	do {                                                                                        \
		__u32 word = *(volatile __u32 *)&(ip4), word0 = *(volatile __u32 *)&(ip6)[0],       \
		      word1 = *(volatile __u32 *)&(ip6)[1], word2 = *(volatile __u32 *)&(ip6)[2],   \
		      word3 = *(volatile __u32 *)&(ip6)[3];                                         \
		if (!(is_ipv6)) {                                                                   \
			word0 = word1 = 0;                                                          \
			word2 = bpf_htonl(0xffff);                                                  \
			word3 = word;                                                               \
		}                                                                                   \
		(address)[0] = word0;                                                               \
		(address)[1] = word1;                                                               \
		(address)[2] = word2;                                                               \
		(address)[3] = word3;                                                               \
	} while (0)

/* The connection that a listener is looked for. */
static __always_inline void read_lookup(struct bpf_sk_lookup *ctx, struct flow *flow)
{
	bool is_ipv6 = ctx->family == AF_INET6;

	SET_ADDRESS(flow->client, is_ipv6, ctx->remote_ip4, ctx->remote_ip6);
	SET_ADDRESS(flow->server, is_ipv6, ctx->local_ip4, ctx->local_ip6);
	flow->client_port = bpf_ntohs(ctx->remote_port);
	flow->server_port = ctx->local_port;
}

#endif
