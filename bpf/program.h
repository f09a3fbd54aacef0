/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program that connects: who it is, and whether it belongs to a service. */
#ifndef SIDETRACK_PROGRAM_H
#define SIDETRACK_PROGRAM_H

/*
 * Pointers that come from bpf_get_current_task_btf are read directly; whatever is out of reach
 * reads as 0. Helpers that copy kernel memory cost ten times as much.
 */

/* When the process started, as userspace reads it: a number alone may have been given anew. */
static __always_inline __u64 program_started(struct task_struct *task)
{
	return task->group_leader->start_boottime / 10000000;
}

static __always_inline __u32 program_pid(void)
{
	return bpf_get_current_task_btf()->tgid;
}

static __always_inline __u64 program_cgroup(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->kn->id;
}

/* The service of a process, or of one it descends from, in the same cgroup; 0 if none. */
static __noinline __u32 owner_of_current(__u64 cgroup)
{
	struct task_struct *task = bpf_get_current_task_btf();

	for (int i = 0; i < SIDETRACK_ANCESTORS_MAX; i++) {
		struct sidetrack_owner *owner;
		__u32 tgid = task->tgid;

		if (tgid <= 1)
			break;
		owner = bpf_map_lookup_elem(&sidetrack_owners, &tgid);
		if (owner && owner->cgroup_id == cgroup && owner->started == program_started(task))
			return owner->service;
		task = task->real_parent;
		if (!task)
			break;
	}
	return 0;
}

/* The service whose process this is; 0 if none. Most cgroups have none, and that is soon known. */
static __always_inline __u32 program_service(void)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	struct sidetrack_owner_cgroup *known;

	known = bpf_map_lookup_elem(&sidetrack_owner_cgroups, &cgroup);
	if (!known)
		return 0;
	return known->service ? known->service : owner_of_current(cgroup);
}

static __always_inline int program_in_scope(void)
{
	return bpf_get_current_ancestor_cgroup_id(scope_level) == scope_id;
}

/*
 * Writes one name before what is there. Returns the new start, or a negative number when it no
 * longer fits: then the path's tail stays.
 */
static __always_inline int path_prepend(char *path, int start, __u32 length, const void *name)
{
	__u32 from;

	length &= SIDETRACK_EXECUTABLE_SIZE - 1;
	if ((int)length + 1 > start)
		return -1;
	from = (start - length) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	bpf_probe_read_kernel(path + from, length, name);
	from = (from - 1) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	path[from] = '/';
	return from;
}

/*
 * The rest of a path whose file is not on its namespace's root mount: up through the mounts. By
 * helpers, as no typed pointer leads from a mount to its parent. Returns the start, negative if
 * cut.
 */
static __noinline int path_walk_mounts(char *path, int start, struct vfsmount *from)
{
	struct mount *mount = (void *)from - bpf_core_field_offset(struct mount, mnt);
	struct mount *above = BPF_CORE_READ(mount, mnt_parent);
	struct dentry *dentry;

	if (!path || !above || above == mount)
		return start;
	dentry = BPF_CORE_READ(mount, mnt_mountpoint);
	mount = above;
	for (int i = 0; i < SIDETRACK_PATH_DEPTH_MAX; i++) {
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			above = BPF_CORE_READ(mount, mnt_parent);
			if (!above || above == mount)
				return start;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		start = path_prepend(path, start, BPF_CORE_READ(dentry, d_name.len),
				     BPF_CORE_READ(dentry, d_name.name));
		if (start < 0)
			return -1;
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return -1;
}

/* The path of a file, from its end upwards. Returns where it starts in the buffer. */
static __always_inline int path_walk(char *path, struct file *file, __u32 *flags)
{
	struct dentry *root = file->f_path.mnt->mnt_root;
	struct dentry *dentry = file->f_path.dentry;
	int start = SIDETRACK_EXECUTABLE_SIZE - 1, next = 0;

	path[SIDETRACK_EXECUTABLE_SIZE - 1] = 0;
	for (int i = 0; i < SIDETRACK_PATH_DEPTH_MAX && dentry != root; i++) {
		struct dentry *parent = dentry->d_parent;

		if (dentry == parent)
			return start; /* a file in no mount, such as memfd */
		next = path_prepend(path, start, dentry->d_name.len, dentry->d_name.name);
		if (next < 0)
			break;
		start = next;
		dentry = parent;
	}
	if (next >= 0 && dentry == root) {
		next = path_walk_mounts(path, start, file->f_path.mnt);
		if (next >= 0)
			return next;
	}
	*flags |= SIDETRACK_FLOW_EXECUTABLE_CUT;
	return start;
}

static __always_inline void program_executable(struct sidetrack_flow *flow,
					       struct task_struct *task, char *path)
{
	struct file *file = task->mm->exe_file;
	__u32 start;

	if (!file)
		return; /* a kernel thread */
	flow->executable_inode = file->f_inode->i_ino;
	flow->executable_device = file->f_inode->i_sb->s_dev;
	start = path_walk(path, file, &flow->flags) & (SIDETRACK_EXECUTABLE_SIZE - 1);
	bpf_probe_read_kernel(flow->executable, sizeof(flow->executable), path + start);
}

/* Fills in the current program as the one that opened the chain. */
static __always_inline void program_describe(struct sidetrack_flow *flow, char *path)
{
	/* Read from the task: sockops programs have no helpers for these before Linux 6.10. */
	struct task_struct *task = bpf_get_current_task_btf();

	flow->pid = task->tgid;
	flow->uid = task->cred->uid.val;
	flow->gid = task->cred->gid.val;
	flow->cgroup_id = program_cgroup(task);
	__builtin_memcpy(flow->comm, task->comm, sizeof(flow->comm));
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
