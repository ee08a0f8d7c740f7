// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Spares the open connections of ports that are left alone when a host is captured, the one that its operator came by among them.
 *
 * Walks the TCP sockets of the network namespace of the thread that asks. What comes in later gets the same mark with its handshake.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "terms.h"

#define SOL_SOCKET 1
#define SO_MARK 36
/* `ADMITTED_MARK` of nodeagent/capture/marks.py. */
#define MARK_ADMITTED 0x80000

/* The kernel's, as far as they are read; where the fields are is found when the program is loaded. */
struct sock_common {
	__u16 skc_num;
	unsigned char skc_state;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
} __attribute__((preserve_access_index));

struct bpf_iter_meta;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
	unsigned int uid;
};

SEC("iter/tcp")
int spare_open(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	int mark = MARK_ADMITTED;
	struct sock *sk;

	if (!common)
		return 0;
	/* None for what is only half a socket. */
	sk = (struct sock *)bpf_skc_to_tcp_sock(common);
	if (!sk || sk->sk_mark || sk->__sk_common.skc_state == BPF_TCP_LISTEN || !is_left_alone(sk->__sk_common.skc_num))
		return 0;
	bpf_setsockopt(common, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
