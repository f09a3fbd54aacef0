// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Programs that notice when a process leaves a cgroup in which everything is inspected, and the
 * processes below it. `sidetrack run` loads them; the daemon, whose scope anybody may leave, does
 * not.
 *
 * A process leaves if it is moved, or if it is born elsewhere (CLONE_INTO_CGROUP). When the kernel
 * reports a move, the process is in its new cgroup already. So each task that was ever in the
 * watched cgroup has a mark, which its children inherit.
 */
#include <linux/bpf.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "kernel.h"
#include "departure.h"

/* Constants. The engine sets them before it loads the programs. */
const volatile __u64 watched_id;    /* the watched cgroup, which includes all cgroups below it */
const volatile __u32 watched_level; /* its level; the root has 0 */
const volatile __u32 pid_level;	    /* as in maps.h */
const volatile __u32 pid_inode;
const volatile __u32 strict; /* 1: a process that leaves is killed */

#include "process.h"

#define SIGKILL 9

/* Number of processes that may have left without an event: no memory, or the ring was full. */
__u64 departures_missed;

/* The mark of a task. */
struct departure_mark {
	__u32 outside; /* 1 while the task is outside of the watched cgroup */
};

/*
 * Marks. The key is a task that was in the watched cgroup, or whose parent was.
 * Both programs write and read it. It has no limit of entries, and an entry is freed with its task.
 * If there is no memory for a mark, that is counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct departure_mark);
} sidetrack_marks SEC(".maps");

/*
 * Departures, as struct sidetrack_departure. Both programs write it, the engine reads it. If it is
 * full, that is counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} sidetrack_departures SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
};

/* Since Linux 6.13. */
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type,
				__u64 value) __ksym __weak;

static __always_inline int is_watched(struct cgroup *cgroup)
{
	struct cgroup *above = NULL;
	__u32 level = BPF_CORE_READ(cgroup, level);

	if (level < watched_level)
		return 0;
	bpf_probe_read_kernel(&above, sizeof(above),
			      (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors) +
				      watched_level * sizeof(above));
	return above && BPF_CORE_READ(above, kn, id) == watched_id;
}

/*
 * Kills a process. Returns 0 if it is not the current one, and this kernel can kill only that, or
 * the process's leader has ended.
 */
static __always_inline int kill(struct task_struct *task)
{
	if (bpf_ksym_exists(bpf_send_signal_task) &&
	    !bpf_send_signal_task(task, SIGKILL, PIDTYPE_TGID, 0))
		return 1;
	/* The kernel refuses to signal a leader that has ended before its other threads. */
	if (task->tgid == (int)(bpf_get_current_pid_tgid() >> 32))
		return !bpf_send_signal(SIGKILL);
	return 0;
}

/* Reports that a process left for a cgroup, and kills it if the engine wants that. */
static __always_inline void depart(struct task_struct *task, struct cgroup *to)
{
	int killed = strict && kill(task);
	struct sidetrack_departure *d;

	d = bpf_ringbuf_reserve(&sidetrack_departures, sizeof(*d), 0);
	if (!d) {
		__sync_fetch_and_add(&departures_missed, 1);
		return;
	}
	d->cgroup_id = BPF_CORE_READ(to, kn, id);
	d->started = BPF_CORE_READ(task, group_leader, start_boottime) / 10000000;
	d->pid = engine_pid(task);
	d->killed = killed;
	bpf_probe_read_kernel(d->comm, sizeof(d->comm), task->comm);
	bpf_ringbuf_submit(d, 0);
}

/* The kernel runs it after it has moved a process, or one thread, to a cgroup. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(sidetrack_cgroup_attach, struct cgroup *to, const char *path, struct task_struct *task)
{
	int inside = is_watched(to);
	struct departure_mark *mark;

	mark = bpf_task_storage_get(&sidetrack_marks, task, NULL,
				    inside ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (!mark) {
		if (inside)
			__sync_fetch_and_add(&departures_missed, 1);
		return 0;
	}
	if (!inside && !mark->outside)
		depart(task, to);
	mark->outside = !inside;
	return 0;
}

/* The kernel runs it in the parent before the child, or the new thread, runs for the first time. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(sidetrack_fork, struct task_struct *parent, struct task_struct *child)
{
	struct departure_mark *mark, *own;
	struct cgroup *cgroup;

	mark = bpf_task_storage_get(&sidetrack_marks, parent, NULL, 0);
	if (!mark)
		return 0;
	own = bpf_task_storage_get(&sidetrack_marks, child, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!own) {
		__sync_fetch_and_add(&departures_missed, 1);
		return 0;
	}
	cgroup = BPF_CORE_READ(child, cgroups, dfl_cgrp);
	own->outside = !is_watched(cgroup);
	if (!own->outside)
		return 0;
	/* The children of a process that has left are no further departures. */
	if (!mark->outside)
		depart(child, cgroup);
	else if (strict)
		kill(child);
	return 0;
}
