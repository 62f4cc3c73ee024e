# cmake -DOUTPUT=sources.cc -DFILES="a.cu;b.h" -P embed.cmake
# Writes the files as string literals. NVRTC finds a header by the very text of the #include line:
# its file name alone, as the kernels write it.
set(pieces "")
foreach(file IN LISTS FILES)
  file(READ "${file}" text)
  get_filename_component(name "${file}" NAME)
  string(APPEND pieces "      {\"${name}\", std::string()")
  string(LENGTH "${text}" length)
  set(start 0)
  while(start LESS length)  # compilers need not take literals longer than 64 KB
    string(SUBSTRING "${text}" ${start} 16000 piece)
    string(APPEND pieces " +\n       R\"source_text(${piece})source_text\"")
    math(EXPR start "${start} + 16000")
  endwhile()
  string(APPEND pieces "},\n")
endforeach()
file(WRITE "${OUTPUT}" "#include \"cuda/sources.h\"

namespace masked_rnn::cuda {

const std::vector<Source>& embedded_sources() {
  static const auto& sources = *new std::vector<Source>{
${pieces}  };
  return sources;
}

}  // namespace masked_rnn::cuda
")
