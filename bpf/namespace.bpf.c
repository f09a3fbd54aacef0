// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How deep the asking process is. In a namespace of cgroups or processes, as containers have, that
 * is seen in the kernel's own structures only. Loaded only there, run once, and gone.
 */
#include <linux/bpf.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>

#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The level of its cgroup; the hierarchy's root has 0. */
SEC("syscall")
int sidetrack_cgroup_level(void *none)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->cgroups->dfl_cgrp->level;
}

/* The level of its namespace of processes; the first one has 0. */
SEC("syscall")
int sidetrack_pid_level(void *none)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->thread_pid->level;
}
