#include "simgpu/fatal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void sim_fatal(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("simgpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

void *sim_allocate(unsigned long size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory) sim_fatal("out of memory: %lu bytes", size);
    return memory;
}
