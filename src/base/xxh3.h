/*
 * XXH3 as fast as the CPU allows. Distributions build the library's plain functions for the oldest CPU of their port;
 * on x86-64 Debian's library has others that choose SSE2, AVX2 or AVX-512 at run time, and this header of it
 * (github.com/Cyan4973/xxHash, xxh_x86dispatch.h) puts them in the plain ones' place. Elsewhere the plain functions are
 * what there is; NEON is part of every arm64. The values are the same.
 */
#ifndef BASE_XXH3_H
#define BASE_XXH3_H

#include <xxhash.h>
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif
#endif

#endif
