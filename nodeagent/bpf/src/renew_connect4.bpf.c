// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* `renew` for sockets of IPv4. */
#include "renew.h"

SEC("cgroup/connect4")
int renew_connect4(struct bpf_sock_addr *ctx)
{
	return renew(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
