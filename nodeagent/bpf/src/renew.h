/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Takes our mark off a socket that is connected once more, before the kernel chooses a route by it.
 *
 * A socket may be tried again after a refusal, or be disconnected and dial elsewhere. The mark of its former connection would find it the
 * route of that one, and a source address to match.
 */
#ifndef NODEMESH_RENEW_H
#define NODEMESH_RENEW_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "outbound.h"

#define SOL_SOCKET 1
#define SO_MARK 36

/* Always 1: it refuses nobody. */
static __always_inline int renew(struct bpf_sock_addr *ctx)
{
	__u32 key = 0;
	struct settings *now = bpf_map_lookup_elem(&settings, &key);
	struct bpf_sock *sk = ctx->sk;
	int none = 0;

	if (now && sk && sk->mark && (sk->mark == now->captured_mark || sk->mark == now->past_mark))
		bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &none, sizeof(none));
	return 1;
}

#endif
