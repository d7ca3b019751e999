# Included by CMake after ggml's own project() call, through CMAKE_PROJECT_ggml_INCLUDE, which
# scripts/install.sh sets: what llama.cpp computes faster with it on x86-64 (docs/performance.md).
# Wherever something is not as expected, llama.cpp is built as it comes.
set(_faster_ggml ${CMAKE_CURRENT_LIST_DIR})

# Lets `file` define the function under the name ${function}_stock.
function(_rename file function)
  set_property(
    SOURCE "${file}" TARGET_DIRECTORY ggml-cpu APPEND
    PROPERTY COMPILE_DEFINITIONS ${function}=${function}_stock)
endfunction()

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
  set(folder "${folder}/ggml-cpu")
  get_target_property(sources ggml-cpu SOURCES)
  if(EXISTS "${folder}/arch/x86/quants.c" AND "ggml-cpu/llamafile/sgemm.cpp" IN_LIST sources)
    # ggml's own stay there under other names, for what these don't do and for the tests.
    _rename("${folder}/arch/x86/quants.c" ggml_vec_dot_q4_1_q8_1)
    _rename("${folder}/llamafile/sgemm.cpp" llamafile_sgemm)
    _rename("${folder}/ops.cpp" ggml_compute_forward_flash_attn_ext)
    target_sources(ggml-cpu PRIVATE "${_faster_ggml}/q4_1.c" "${_faster_ggml}/attention.c")
  endif()
endfunction()

cmake_language(DEFER CALL _make_ggml_faster)
