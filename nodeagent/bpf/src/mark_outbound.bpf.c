// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Decides where a new connection of a workload's processes goes, by the mark of its socket, before it has sent anything.
 *
 * Runs when the kernel has chosen source address, port and route, and is about to send the handshake: so the source is the one that the
 * route has without us, and only then does the mark send what follows by the loopback device to the proxy, or past it. What is left
 * without a mark here is captured by the rules of the namespace, which need no cgroup.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "outbound.h"

/* <sys/socket.h> has them, and needs the C library of a machine that eBPF is not. */
#define AF_INET 2
#define SOL_SOCKET 1
#define SO_MARK 36

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES_ROOM);
	__type(key, __u32);
	__type(value, struct connections);
} outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_ROOM);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, RANGES_ROOM);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct range);
	__type(value, __u32);
} ranges SEC(".maps");

/* Destinations that the mesh does not know: those who ask were told to pass. Forgets the one that was used least lately. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, OUTSIDE_ROOM);
	__type(key, struct destination);
	__type(value, __u64);
} outside SEC(".maps");

static __always_inline void count(enum outcome outcome)
{
	__u32 key = outcome;
	struct connections *connections = bpf_map_lookup_elem(&outcomes, &key);

	if (connections)
		connections->count++;
}

/* Words of an address are as they stand in memory, in network order. */
struct flow {
	__u32 remote[4];
	__u32 local[4];
	__u32 port;
};

static __always_inline bool is_mapped(const __u32 address[4])
{
	return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

static __always_inline void map_ipv4(__u32 address[4], __u32 ipv4)
{
	address[0] = 0;
	address[1] = 0;
	address[2] = bpf_htonl(0xffff);
	address[3] = ipv4;
}

/* The verifier takes no access to the context that the compiler has made wider, or of two branches one. */
#define TAKE(to, field)        \
	do {                   \
		(to) = (field);\
		barrier_var(to);\
	} while (0)

static __always_inline void read_flow(struct bpf_sock_ops *ctx, struct flow *flow)
{
	__u32 remote, local;

	TAKE(remote, ctx->remote_ip4);
	TAKE(local, ctx->local_ip4);
	TAKE(flow->port, ctx->remote_port);
	flow->port = bpf_ntohl(flow->port);
	if (ctx->family == AF_INET) {
		map_ipv4(flow->remote, remote);
		map_ipv4(flow->local, local);
		return;
	}
	TAKE(flow->remote[0], ctx->remote_ip6[0]);
	TAKE(flow->remote[1], ctx->remote_ip6[1]);
	TAKE(flow->remote[2], ctx->remote_ip6[2]);
	TAKE(flow->remote[3], ctx->remote_ip6[3]);
	TAKE(flow->local[0], ctx->local_ip6[0]);
	TAKE(flow->local[1], ctx->local_ip6[1]);
	TAKE(flow->local[2], ctx->local_ip6[2]);
	TAKE(flow->local[3], ctx->local_ip6[3]);
}

/* Addresses that never leave by a route of the workload: loopback, unspecified, multicast, link-local of IPv6. */
static __always_inline bool is_local(const __u32 address[4])
{
	__u32 first = bpf_ntohl(address[0]), last = bpf_ntohl(address[3]);

	if (is_mapped(address))
		return last >> 24 == 127 || last == 0 || last >> 28 == 0xe || last == 0xffffffff;
	if (address[0] == 0 && address[1] == 0 && address[2] == 0)
		return last <= 1;
	return first >> 22 == 0xfe80 >> 6 || first >> 24 == 0xff;
}

static __always_inline enum term term_of_port(__u32 port)
{
	__u32 *term = bpf_map_lookup_elem(&ports, &port);

	return term ? *term : TERM_NONE;
}

static __always_inline enum term term_of_address(const struct flow *flow)
{
	struct range key = { .prefix_bits = 128 };
	__u32 *term;

	__builtin_memcpy(key.address, flow->remote, sizeof(key.address));
	term = bpf_map_lookup_elem(&ranges, &key);
	return term ? *term : TERM_NONE;
}

static __always_inline bool is_outside(const struct flow *flow)
{
	struct destination key = { .port = flow->port };

	__builtin_memcpy(key.address, flow->remote, sizeof(key.address));
	return bpf_map_lookup_elem(&outside, &key);
}

static __always_inline enum outcome judge(const struct flow *flow, __u32 flags)
{
	enum term port, address;

	if (is_local(flow->remote) || is_local(flow->local))
		return OUTCOME_LOCAL;
	if (!(flags & SETTING_ACTIVE))
		return OUTCOME_CAPTURED;
	port = term_of_port(flow->port);
	address = term_of_address(flow);
	if (port == TERM_EXCLUDED || address == TERM_EXCLUDED)
		return OUTCOME_EXCLUDED;
	if (port != TERM_INCLUDED && address != TERM_INCLUDED && !(flags & SETTING_INCLUDE_REST))
		return OUTCOME_EXCLUDED;
	return is_outside(flow) ? OUTCOME_OUTSIDE : OUTCOME_CAPTURED;
}

/* The proxy's own: 0x539 and 0x111 in the lower twelve bits, of which ours have the latter. */
static __always_inline bool is_proxys(__u32 mark)
{
	return (mark & 0xfff) == 0x539 || (mark & 0xfff) == 0x111;
}

static __always_inline enum outcome decide(struct bpf_sock_ops *ctx, const struct settings *now)
{
	bool alone = now->flags & SETTING_ALONE;
	struct bpf_sock *sk = ctx->sk;
	struct flow flow;

	if (bpf_get_netns_cookie(ctx) != now->netns_cookie)
		return OUTCOME_ELSEWHERE;
	/* Somebody's own mark is left to him. One of ours, that a former connection of this socket had, is not there any more: see renew.h. */
	if (!sk || (sk->mark && (!alone || is_proxys(sk->mark))))
		return OUTCOME_FOREIGN;
	if (sk->bound_dev_if && !alone)
		return OUTCOME_DEVICE;
	read_flow(ctx, &flow);
	return judge(&flow, now->flags);
}

static __always_inline enum outcome mark(struct bpf_sock_ops *ctx, const struct settings *now, enum outcome outcome)
{
	int mark = outcome == OUTCOME_CAPTURED ? now->captured_mark : now->past_mark;

	if (outcome < OUTCOME_EXCLUDED || !mark)
		return outcome;
	/* The kernel looks for a route anew when the mark has changed; source address and port stay. */
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ? OUTCOME_FAILED : outcome;
}

SEC("sockops")
int mark_outbound(struct bpf_sock_ops *ctx)
{
	__u32 key = 0;
	struct settings *now;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	now = bpf_map_lookup_elem(&settings, &key);
	if (now)
		count(mark(ctx, now, decide(ctx, now)));
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
