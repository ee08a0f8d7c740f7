/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Refuses at the first packet what needs no identity to be denied: looks it up in a table that the agent compiled from the policies.
 *
 * Source and port are pieces of what there is of each, in ascending order; pieces that policies can't tell apart share a class. A table is
 * replaced as one: the program sees the whole of it, or the whole of another. Without a table, and where it says nothing, the proxy judges.
 * What it shares with nodeagent/bpf/prefilter.py is the layout of the structures, the limits and the names of the maps.
 */
#ifndef NODEMESH_PREFILTER_H
#define NODEMESH_PREFILTER_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steering.h"

/* Powers of two: they are searched by halves. */
#define PREFILTER_SOURCES 1024
#define PREFILTER_PORTS 128
#define PREFILTER_DESTINATIONS 4
#define PREFILTER_CLASSES 64
#define PREFILTER_DENIALS 256

/* One packet is looked up more than once (by rules that ask for its socket, then by TCP): the same addresses this soon are the same one. */
#define SAME_PACKET_US 10000
#define REMEMBERED 512

/* How many refusals a second the agent is told of one by one, on each CPU; the others are counted only. */
#define TOLD_PER_SECOND 20
#define SECOND_NS 1000000000ULL

/* As a number of 128 bits; IPv4 in the form of an IPv4-mapped IPv6 address. */
struct address {
	__u64 high;
	__u64 low;
};

struct prefilter_table {
	/* Of its content: by this the agent knows it again. */
	__u64 digest;
	/* Always 0, which the verifier can't know: searches that begin here are all alike to it, instead of one for each way through. */
	__u64 zero;
	/* All ones where there is none. */
	struct address destinations[PREFILTER_DESTINATIONS];
	/* Where each piece begins; after the last, all ones in the class of the last. */
	struct address sources[PREFILTER_SOURCES];
	__u16 ports[PREFILTER_PORTS];
	__u8 source_classes[PREFILTER_SOURCES];
	__u8 port_classes[PREFILTER_PORTS];
	/* 0 leaves it to the proxy; all else is a number of `denials`. Of a tunnel neither the port nor the destination is known. */
	__u8 plaintext[PREFILTER_DESTINATIONS][PREFILTER_CLASSES][PREFILTER_CLASSES];
	__u8 tunnels[PREFILTER_CLASSES];
	/* What the agent knows a policy by. */
	__u64 denials[PREFILTER_DENIALS];
};

/* What the agent is told. Addresses as in a packet, ports in the byte order of the machine. */
struct refusal {
	/* Since the machine was started. */
	__u64 at_ns;
	__u64 denial;
	struct address source;
	struct address destination;
	__u16 source_port;
	__u16 port;
	__u32 unused;
};

/* Of one CPU. */
struct telling {
	__u64 since_ns;
	__u64 told;
	/* Not told, for want of time or of room. */
	__u64 shed;
};

_Static_assert(sizeof(struct prefilter_table) == 36368, "another layout needs another name of the map `prefilter`, and prefilter.py");
_Static_assert(sizeof(struct refusal) == 56, "prefilter.py reads it");
_Static_assert(sizeof(struct telling) == 24, "prefilter.py reads it");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct prefilter_table));
	});
} prefilter SEC(".maps");

/* Refused connections by `denials`, since the agent took them last. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * PREFILTER_DENIALS);
	__type(key, __u64);
	__type(value, __u64);
} denied SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct telling);
} telling SEC(".maps");

/* Which packet with this hash was refused last, and when. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, __u64);
} remembered SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 * 1024);
} refusals SEC(".maps");

static __always_inline struct address mapped(__u32 ip4)
{
	return (struct address){0, 0xffff00000000ULL | bpf_ntohl(ip4)};
}

static __always_inline __u64 joined(__u32 first, __u32 second)
{
	return (__u64)bpf_ntohl(first) << 32 | bpf_ntohl(second);
}

static __always_inline bool at_most(const struct address *one, const struct address *other)
{
	return one->high < other->high || (one->high == other->high && one->low <= other->low);
}

/* The class of the last piece that begins at or before it; the first begins at 0. The masks tell the verifier what the steps add up to. */
static __always_inline __u32 source_class(const struct prefilter_table *table, const struct address *source)
{
	__u32 piece = table->zero;

#pragma unroll
	for (__u32 step = PREFILTER_SOURCES / 2; step; step /= 2) {
		if (at_most(&table->sources[(piece + step) & (PREFILTER_SOURCES - 1)], source))
			piece = (piece + step) & (PREFILTER_SOURCES - 1);
	}
	return table->source_classes[piece & (PREFILTER_SOURCES - 1)] & (PREFILTER_CLASSES - 1);
}

static __always_inline __u32 port_class(const struct prefilter_table *table, __u32 port)
{
	__u32 piece = table->zero;

#pragma unroll
	for (__u32 step = PREFILTER_PORTS / 2; step; step /= 2) {
		if (table->ports[(piece + step) & (PREFILTER_PORTS - 1)] <= port)
			piece = (piece + step) & (PREFILTER_PORTS - 1);
	}
	return table->port_classes[piece & (PREFILTER_PORTS - 1)] & (PREFILTER_CLASSES - 1);
}

static __always_inline __u8 of_plaintext(const struct prefilter_table *table, const struct refusal *of, __u32 source)
{
	__u32 port = port_class(table, of->port);

#pragma unroll
	for (__u32 index = 0; index < PREFILTER_DESTINATIONS; index++) {
		const struct address *destination = &table->destinations[index];

		if (destination->high == of->destination.high && destination->low == of->destination.low)
			return table->plaintext[index][source][port];
	}
	return 0;
}

static __always_inline void count_denial(__u64 denial)
{
	__u64 *count = bpf_map_lookup_elem(&denied, &denial);
	__u64 first = 1;

	/* Another CPU may have been faster. */
	if (!count && bpf_map_update_elem(&denied, &denial, &first, BPF_NOEXIST))
		count = bpf_map_lookup_elem(&denied, &denial);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void tell(const struct refusal *refusal)
{
	__u32 key = 0;
	struct telling *own = bpf_map_lookup_elem(&telling, &key);

	if (!own)
		return;
	if (refusal->at_ns - own->since_ns >= SECOND_NS) {
		own->since_ns = refusal->at_ns;
		own->told = 0;
	}
	if (own->told >= TOLD_PER_SECOND || bpf_ringbuf_output(&refusals, (void *)refusal, sizeof(*refusal), 0)) {
		own->shed++;
		return;
	}
	own->told++;
}

/* Whether this is another look at a packet that was counted. */
static __always_inline bool seen(const struct refusal *of)
{
	__u64 hash = of->source.high ^ of->source.low ^ of->destination.low ^ ((__u64)of->source_port << 16 | of->port);
	/* In microseconds; it comes round in an hour. */
	__u32 now = of->at_ns / 1000;
	__u32 key;
	__u64 *last;

	hash *= 0x9e3779b97f4a7c15ULL;
	key = (hash >> 55) & (REMEMBERED - 1);
	last = bpf_map_lookup_elem(&remembered, &key);
	if (!last)
		return false;
	/* The upper half tells which packet it was, the lower when. */
	if ((*last ^ hash) >> 32 == 0 && now - (__u32)*last < SAME_PACKET_US)
		return true;
	*last = (hash & 0xffffffff00000000ULL) | now;
	return false;
}

static __always_inline struct refusal described(struct bpf_sk_lookup *ctx)
{
	struct refusal it = {.source_port = bpf_ntohs(ctx->remote_port), .port = ctx->local_port};

	if (ctx->family == AF_INET6) {
		it.source = (struct address){joined(ctx->remote_ip6[0], ctx->remote_ip6[1]), joined(ctx->remote_ip6[2], ctx->remote_ip6[3])};
		it.destination = (struct address){joined(ctx->local_ip6[0], ctx->local_ip6[1]), joined(ctx->local_ip6[2], ctx->local_ip6[3])};
	} else {
		it.source = mapped(ctx->remote_ip4);
		it.destination = mapped(ctx->local_ip4);
	}
	return it;
}

/* Whether a policy denies it whoever comes. `reason` is set if so. */
static __always_inline bool is_denied(struct bpf_sk_lookup *ctx, enum reason *reason)
{
	struct refusal it = described(ctx);
	const struct prefilter_table *table;
	void *tables;
	__u32 key = 0, source;
	__u8 found;

	tables = bpf_map_lookup_elem(&prefilter, &key);
	if (!tables)
		return false;
	table = bpf_map_lookup_elem(tables, &key);
	if (!table)
		return false;
	source = source_class(table, &it.source);
	found = it.port == HBONE_PORT ? table->tunnels[source] : of_plaintext(table, &it, source);
	if (!found)
		return false;
	it.at_ns = bpf_ktime_get_ns();
	it.denial = table->denials[found];
	if (seen(&it)) {
		*reason = REASON_DENIED_SAME;
		return true;
	}
	*reason = REASON_DENIED;
	count_denial(it.denial);
	tell(&it);
	return true;
}

#endif
