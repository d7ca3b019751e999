# Included by CMake after ggml's own project() call, through CMAKE_PROJECT_ggml_INCLUDE, which
# scripts/install.sh sets: two places where llama.cpp computes the same bits faster on x86-64.
# Wherever something is not as expected, llama.cpp is built as it comes.
set(_faster_ggml ${CMAKE_CURRENT_LIST_DIR})

function(_make_ggml_faster)
  if(NOT TARGET ggml-cpu
     OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64"
     OR NOT CMAKE_C_COMPILER_ID MATCHES "GNU|Clang"
     OR MSVC)
    return()
  endif()
  target_compile_options(
    ggml-cpu PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:SHELL:-include "${_faster_ggml}/half.h">)

  get_target_property(folder ggml-cpu SOURCE_DIR)
  set(stock "${folder}/ggml-cpu/arch/x86/quants.c")
  if(EXISTS "${stock}")
    # ggml's own one stays there under another name, for CPUs without AVX2 and for the tests.
    set_property(
      SOURCE "${stock}" TARGET_DIRECTORY ggml-cpu APPEND
      PROPERTY COMPILE_DEFINITIONS ggml_vec_dot_q4_1_q8_1=ggml_vec_dot_q4_1_q8_1_stock)
    target_sources(ggml-cpu PRIVATE "${_faster_ggml}/q4_1.c")
  endif()
endfunction()

cmake_language(DEFER CALL _make_ggml_faster)
