// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Records which process opens each TCP connection, before its first packet is sent.
 *
 * Runs in the cgroup of a workload: in the system call of the process that connects, where the source port is known already. The entry is
 * taken out by the agent, once the proxy has told of the connection's end; others make room by themselves.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "dialling.h"

/* <sys/socket.h> has it, and needs the C library of a machine that eBPF is not. */
#define AF_INET6 10

/* The kernel's, as far as they are read; where the fields are is found when the program is loaded. */
struct qstr {
	const unsigned char *name;
} __attribute__((preserve_access_index));

struct dentry {
	struct qstr d_name;
} __attribute__((preserve_access_index));

struct path {
	struct dentry *dentry;
} __attribute__((preserve_access_index));

struct file {
	struct path f_path;
} __attribute__((preserve_access_index));

struct mm_struct {
	struct file *exe_file;
} __attribute__((preserve_access_index));

struct task_struct {
	__u32 tgid;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	char comm[COMMAND_BYTES];
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_DIALLED);
	__type(key, struct connection);
	__type(value, struct dialler);
} dialled SEC(".maps");

static __always_inline struct connection connection_of(struct bpf_sock_ops *ctx)
{
	struct connection made = {
		.namespace = bpf_get_netns_cookie(ctx),
		.source_port = ctx->local_port,
		.destination_port = bpf_ntohl(ctx->remote_port),
	};
	__u32 *source = (__u32 *)made.source, *destination = (__u32 *)made.destination;

	if (ctx->family == AF_INET6) {
		source[0] = ctx->local_ip6[0];
		source[1] = ctx->local_ip6[1];
		source[2] = ctx->local_ip6[2];
		source[3] = ctx->local_ip6[3];
		destination[0] = ctx->remote_ip6[0];
		destination[1] = ctx->remote_ip6[1];
		destination[2] = ctx->remote_ip6[2];
		destination[3] = ctx->remote_ip6[3];
		/* Of the last one here and the last one below the compiler would make one read through a pointer, which the verifier refuses. */
		asm volatile("" ::: "memory");
	} else {
		made.source[10] = made.source[11] = made.destination[10] = made.destination[11] = 0xff;
		source[3] = ctx->local_ip4;
		destination[3] = ctx->remote_ip4;
	}
	return made;
}

static __always_inline struct dialler current_process(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const unsigned char *executable = BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name);
	struct dialler found = {
		.at_ns = bpf_ktime_get_ns(),
		.process_started_ns = BPF_CORE_READ(task, group_leader, start_boottime),
		.process = BPF_CORE_READ(task, tgid),
	};

	BPF_CORE_READ_STR_INTO(&found.command, task, group_leader, comm);
	bpf_probe_read_kernel_str(found.executable, sizeof(found.executable), executable);
	return found;
}

SEC("sockops")
int dialling(struct bpf_sock_ops *ctx)
{
	struct connection connection;
	struct dialler dialler;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	connection = connection_of(ctx);
	dialler = current_process();
	bpf_map_update_elem(&dialled, &connection, &dialler, BPF_ANY);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
