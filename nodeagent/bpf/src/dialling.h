/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the record of who dials shares with its Python side, nodeagent/bpf/dialling.py. */
#ifndef NODEMESH_DIALLING_H
#define NODEMESH_DIALLING_H

#include <linux/types.h>

#define COMMAND_BYTES 16
#define EXECUTABLE_BYTES 32
#define MAX_DIALLED 1024

/* A connection, as it leaves the application: addresses with IPv4 as ::ffff:a.b.c.d, the cookie of the network namespace. */
struct connection {
	__u64 namespace;
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	__u32 unused;
};

/* Who opened it, and when: times in nanoseconds since the machine started, that of the process with suspensions, as its number's other half. */
struct dialler {
	__u64 at_ns;
	__u64 process_started_ns;
	__u32 process;
	__u32 unused;
	char command[COMMAND_BYTES];
	/* The file's name, without its directory: unlike the command, not the process's to choose. */
	char executable[EXECUTABLE_BYTES];
};

_Static_assert(sizeof(struct connection) == 48, "dialling.py packs it");
_Static_assert(sizeof(struct dialler) == 72, "dialling.py unpacks it");

#endif
