/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What departure.bpf.c writes to its ring, and the engine reads (departure.rs). */
#ifndef SIDETRACK_DEPARTURE_H
#define SIDETRACK_DEPARTURE_H

#include <linux/types.h>

/* A process has left the watched cgroup. */
struct sidetrack_departure {
	__u64 cgroup_id; /* where it went */
	__u64 started;	 /* its start time, in hundredths of a second since boot */
	__u32 pid;	 /* its id in the engine's PID namespace; 0 if it is not in it */
	__u32 killed;	 /* 1 if it was sent SIGKILL */
	char comm[16];	 /* its task name */
};

_Static_assert(sizeof(struct sidetrack_departure) == 40, "departure.rs has the same size");

#endif /* SIDETRACK_DEPARTURE_H */
