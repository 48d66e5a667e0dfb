/* The symbol table of a loaded library, local symbols included: dlsym sees only the exported ones. */
#ifndef SIMGPU_ELF_SYMBOLS_H
#define SIMGPU_ELF_SYMBOLS_H

#include <stddef.h>

struct sim_symbol {
    const char *name; /* valid during the visit only */
    void *address;    /* where it lies in this process */
    size_t size;      /* bytes, 0 where the table does not say */
    int is_function;
};

typedef void sim_symbol_visitor_t(const struct sim_symbol *symbol, void *context);

/* Calls `visit` for every defined symbol of the library behind the dlopen handle, read from its file (.symtab).
 * Returns the number of symbols, or -1 when the file cannot be read or has no symbol table. Thread-safe. */
long sim_symbols_visit(void *library, sim_symbol_visitor_t *visit, void *context);

#endif
