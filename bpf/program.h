/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program that connects: who it is, and whether it belongs to a service. */
#ifndef SIDETRACK_PROGRAM_H
#define SIDETRACK_PROGRAM_H

/* When the process started, as userspace reads it: a number alone may have been given anew. */
static __always_inline __u64 program_started(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime) / 10000000;
}

/* The service whose process this is, or descends from; 0 if none. */
static __noinline __u32 program_service(void)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	__u32 *by_cgroup = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	struct task_struct *task;

	if (by_cgroup)
		return *by_cgroup;
	task = (struct task_struct *)bpf_get_current_task();
	for (int i = 0; i < SIDETRACK_ANCESTORS_MAX; i++) {
		__u32 tgid = BPF_CORE_READ(task, tgid);
		struct sidetrack_owner *owner;

		if (tgid <= 1)
			break;
		owner = bpf_map_lookup_elem(&sidetrack_owners, &tgid);
		if (owner && owner->cgroup_id == cgroup && owner->started == program_started(task))
			return owner->service;
		task = BPF_CORE_READ(task, real_parent);
		if (!task)
			break;
	}
	return 0;
}

static __always_inline __u32 program_pid(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, tgid);
}

static __always_inline int program_in_scope(void)
{
	return bpf_get_current_ancestor_cgroup_id(scope_level) == scope_id;
}

/*
 * Writes one name before what is there. Returns the new start, or a negative number when it no
 * longer fits: then the path's tail stays.
 */
static __always_inline int path_prepend(char *path, int start, struct dentry *dentry)
{
	__u32 length = BPF_CORE_READ(dentry, d_name.len) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	__u32 from;

	if ((int)length + 1 > start)
		return -1;
	from = (start - length) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	bpf_probe_read_kernel(path + from, length, BPF_CORE_READ(dentry, d_name.name));
	from = (from - 1) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	path[from] = '/';
	return from;
}

/* The path of a file, from its end upwards, across mounts. Returns where it starts in the buffer.
 */
static __always_inline int path_walk(char *path, struct file *file, __u32 *flags)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct vfsmount *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	int start = SIDETRACK_EXECUTABLE_SIZE - 1;

	path[SIDETRACK_EXECUTABLE_SIZE - 1] = 0;
	for (int i = 0; i < SIDETRACK_PATH_DEPTH_MAX; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (!above || above == mount)
				return start;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		if (dentry == parent)
			return start; /* a file in no mount, such as memfd */
		int next = path_prepend(path, start, dentry);
		if (next < 0)
			break;
		start = next;
		dentry = parent;
	}
	*flags |= SIDETRACK_FLOW_EXECUTABLE_CUT;
	return start;
}

static __always_inline void program_executable(struct sidetrack_flow *flow,
					       struct task_struct *task, char *path)
{
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	__u32 start;

	if (!file)
		return; /* a kernel thread */
	flow->executable_inode = BPF_CORE_READ(file, f_inode, i_ino);
	flow->executable_device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	start = path_walk(path, file, &flow->flags) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	bpf_probe_read_kernel(flow->executable, sizeof(flow->executable), path + start);
}

/* Fills in the current program as the one that opened the chain. */
static __always_inline void program_describe(struct sidetrack_flow *flow, char *path)
{
	/* Read from the task: sockops programs have no helpers for these before Linux 6.10. */
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	flow->pid = program_pid();
	flow->uid = BPF_CORE_READ(task, cred, uid.val);
	flow->gid = BPF_CORE_READ(task, cred, gid.val);
	flow->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	bpf_core_read(flow->comm, sizeof(flow->comm), &task->comm);
	program_executable(flow, task, path);
}

/* The original program is the parent flow's, however long the chain (WFP: ALE_ORIGINAL_APP_ID). */
static __always_inline void program_inherit(struct sidetrack_flow *flow,
					    const struct sidetrack_flow *parent)
{
	flow->origin_id = parent->origin_id;
	flow->executable_inode = parent->executable_inode;
	flow->executable_device = parent->executable_device;
	flow->pid = parent->pid;
	flow->uid = parent->uid;
	flow->gid = parent->gid;
	flow->cgroup_id = parent->cgroup_id;
	flow->flags |= parent->flags;
	__builtin_memcpy(flow->comm, parent->comm, sizeof(flow->comm));
	__builtin_memcpy(flow->executable, parent->executable, sizeof(flow->executable));
}

#endif /* SIDETRACK_PROGRAM_H */
