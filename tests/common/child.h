/* Work of a test that must happen in another process. */
#ifndef COMMON_CHILD_H
#define COMMON_CHILD_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

/* Fork and run `work(argument)` in the child, which then ends with its result. */
pid_t child_start(int (*work)(void *argument), void *argument);

/* Wait for a child. Its exit status; -1 when a signal ended it; after `seconds` it is killed and the result is -2. */
int child_wait(pid_t child, double seconds);

/* All bytes through a pipe; the process that calls ends with a message when the other end has gone. */
void child_read(int fd, void *data, size_t size);
void child_write(int fd, const void *data, size_t size);

/* In a child: end it with a message when `condition` does not hold. */
#define CHILD_CHECK(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: in a child: %s\n", __FILE__, __LINE__, #condition);                                \
            _Exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
