/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* On which terms a workload is captured: ports that are left to its applications, and what happens while the proxy is away.
 *
 * nodeagent/bpf/steering.py writes it as a whole. A reader may see some words of it as they were and others as they are: what is open in
 * between is at most what the one or the other opens.
 */
#ifndef NODEMESH_TERMS_H
#define NODEMESH_TERMS_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#define PORT_WORDS 1024

/* The agent says that the proxy is away: its listeners may be there, but nobody accepts from them. */
#define TERMS_AWAY 1
/* The network is a host's, of which units have their own listeners. */
#define TERMS_SHARED 2

struct terms {
	/* A bit for each port: its connections are the application's. */
	__u64 left_alone[PORT_WORDS];
	/* Where the proxy has no listener, connections are the application's. */
	__u32 fail_open;
	__u32 flags;
};

_Static_assert(sizeof(struct terms) == 8 * PORT_WORDS + 8, "steering.py writes it as words, then two 32-bit numbers");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct terms);
} terms SEC(".maps");

static __always_inline struct terms *terms_of_workload(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&terms, &key);
}

static __always_inline bool is_left_alone(__u32 port)
{
	struct terms *found = terms_of_workload();

	return found && found->left_alone[(port >> 6) % PORT_WORDS] >> (port % 64) & 1;
}

/* Whether what found a listener (or none) is to pass the proxy by. */
static __always_inline bool is_open(bool heard)
{
	struct terms *found = terms_of_workload();

	return found && found->fail_open && (found->flags & TERMS_AWAY || !heard);
}

/* Whether another program may choose the listener. */
static __always_inline bool is_shared(void)
{
	struct terms *found = terms_of_workload();

	return found && found->flags & TERMS_SHARED;
}

#endif
