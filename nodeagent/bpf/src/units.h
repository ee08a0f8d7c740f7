/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the steering program of a host's units shares with its Python side, nodeagent/bpf/units.py. */
#ifndef NODEMESH_UNITS_H
#define NODEMESH_UNITS_H

#include <linux/types.h>

#define CLAIMS_ROOM 4096
#define UNITS_ROOM 1024
#define UNIT_SLOTS_ROOM (4 * UNITS_ROOM)

/* An address and a port of the host that are one unit's. An address of zeros: whichever has no claim of its own. */
struct claim {
	__u32 address[4]; /* words as they are on the wire, IPv4 mapped */
	__u32 port;
};

/* Whose listener a slot holds. */
enum unit_listener {
	UNIT_INBOUND,
	UNIT_INBOUND6,
	UNIT_HBONE,
	UNIT_HBONE6,
	UNIT_LISTENERS,
};

struct unit_slot {
	__u64 unit; /* the id of its cgroup */
	__u32 listener;
	__u32 reserved;
};

/* What became of lookups for a unit. */
struct unit_lookups {
	__u64 inbound;
	__u64 hbone;
	__u64 closed;
};

_Static_assert(UNIT_LISTENERS == 4, "units.py names each");
_Static_assert(sizeof(struct claim) == 20, "units.py packs it as 16sI");
_Static_assert(sizeof(struct unit_slot) == 16, "units.py packs it as QII");
_Static_assert(sizeof(struct unit_lookups) == 24, "units.py reads it as QQQ");

#endif
