/* How the simulation ends when NCCL asks for something it does not do. */
#ifndef SIMGPU_FATAL_H
#define SIMGPU_FATAL_H

/* Prints "simgpu: " and the message to standard error and aborts the process. Never returns: a rank that went on
 * would deliver wrong bytes. Thread-safe. */
_Noreturn void sim_fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Zeroed memory of `size` bytes, which the caller frees; ends the process when there is none. Thread-safe. */
void *sim_allocate(unsigned long size);

#endif
