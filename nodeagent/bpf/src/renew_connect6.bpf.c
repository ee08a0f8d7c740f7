// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* `renew` for sockets of IPv6. */
#include "renew.h"

SEC("cgroup/connect6")
int renew_connect6(struct bpf_sock_addr *ctx)
{
	return renew(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
