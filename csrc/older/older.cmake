# Each library gets what keeps it from older systems: symbols.cc, and older versions of the rest.
foreach(library masked_rnn_core masked_rnn_tf _core)
  if(TARGET ${library})
    target_sources(${library} PRIVATE csrc/older/symbols.cc)
    target_compile_options(${library} PRIVATE
                           "SHELL:-include ${PROJECT_SOURCE_DIR}/csrc/older/versions.h")
    # On an older system they hold what versions.h speaks of; on a newer one they are empty.
    target_link_options(${library} PRIVATE LINKER:--push-state,--no-as-needed
                        -l:libdl.so.2 -l:libpthread.so.0 LINKER:--pop-state)
  endif()
endforeach()
