/* Stands for the Windows header of this name: _beginthread, which starts a detached thread. */
#ifndef SIDETRACK_PROCESS_H
#define SIDETRACK_PROCESS_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define __cdecl

struct sidetrack_thread {
	void (*start)(void *);
	void *argument;
};

static inline void *sidetrack_thread_run(void *given)
{
	struct sidetrack_thread thread = *(struct sidetrack_thread *)given;

	free(given);
	thread.start(thread.argument);
	return NULL;
}

/* Returns (uintptr_t)-1 on failure, as on Windows. */
static inline uintptr_t _beginthread(void (*start)(void *), unsigned stack_size, void *argument)
{
	struct sidetrack_thread *thread = malloc(sizeof(*thread));
	pthread_t id;

	(void)stack_size;
	if (!thread)
		return (uintptr_t)-1;
	*thread = (struct sidetrack_thread){ start, argument };
	if (pthread_create(&id, NULL, sidetrack_thread_run, thread)) {
		free(thread);
		return (uintptr_t)-1;
	}
	pthread_detach(id);
	return (uintptr_t)id;
}

#endif
