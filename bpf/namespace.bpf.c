// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Programs that return how deep the calling process is in the hierarchies of cgroups and of PID
 * namespaces. Inside a namespace, as containers have, only the kernel's own structures show that.
 * The engine loads them only there, runs them once, and unloads them.
 */
#include <linux/bpf.h>
#include <linux/in6.h>

#include <bpf/bpf_helpers.h>

#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Returns the level of the process's cgroup; the root of the hierarchy has 0. */
SEC("syscall")
int sidetrack_cgroup_level(void *none)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->cgroups->dfl_cgrp->level;
}

/* Returns the level of the process's PID namespace; the initial one has 0. */
SEC("syscall")
int sidetrack_pid_level(void *none)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->thread_pid->level;
}
