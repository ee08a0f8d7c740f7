/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What record_kubelet.bpf.c shares with its Python side, nodeagent/bpf/kubelet.py: the order of what it counts. */
#ifndef NODEMESH_RECORDING_H
#define NODEMESH_RECORDING_H

/* What became of a connection. */
enum recording {
	RECORDING_BEGAN,
	RECORDING_ENDED,
	RECORDING_OTHER_FAMILY,
	RECORDING_UNWATCHED,
	RECORDING_NO_ROOM,
	RECORDINGS,
};

/* Room for those of later versions. */
#define RECORDINGS_ROOM 16

_Static_assert(RECORDINGS <= RECORDINGS_ROOM, "raising the room makes another layout");

#endif
