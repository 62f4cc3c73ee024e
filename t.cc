#include <immintrin.h>
#include <cstdio>
#include <cstdlib>
#include <cstdint>
#include <cstring>
#include <chrono>
#include <algorithm>
#include <vector>
typedef __m512 V;
template<int M,int N,int D,int HINT>
__attribute__((noinline)) void tile(const float*a0,int64_t a_block,const float*b,float*c,int64_t K,int64_t crow){
  V s[M][N];
  #pragma GCC unroll 16
  for(int i=0;i<M;i++)
  #pragma GCC unroll 16
   for(int j=0;j<N;j++) s[i][j]=_mm512_setzero_ps();
  for(int64_t l=K;l>0;l-=16,a0+=a_block){
    const float*a=a0;
    #pragma GCC unroll 4
    for(int k=0;k<16;k++,a++,b+=N*16){
      V r[N];
  #pragma GCC unroll 16
      for(int j=0;j<N;j++){ r[j]=_mm512_loadu_ps(b+j*16); if(D) __builtin_prefetch(b+j*16+D*16,0,HINT);}
  #pragma GCC unroll 16
      for(int i=0;i<M;i++){ V x=_mm512_set1_ps(a[i*16]);
  #pragma GCC unroll 16
        for(int j=0;j<N;j++) s[i][j]=_mm512_fmadd_ps(x,r[j],s[i][j]); }
    }
  }
  #pragma GCC unroll 16
  for(int i=0;i<M;i++)
  #pragma GCC unroll 16
   for(int j=0;j<N;j++) _mm512_storeu_ps(c+i*crow+j*16,s[i][j]);
}
double now(){return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();}
float *A,*B,*C;
template<int M,int N,int D,int HINT> double run(int panels,int K){
  std::vector<double> t;
  for(int rep=0;rep<40;rep++){ double t0=now();
    for(int p=0;p<panels;p++) tile<M,N,D,HINT>(A,M*16,B+(int64_t)p*K*N*16,C,K,N*16);
    t.push_back(now()-t0);}
  std::sort(t.begin(),t.end());
  return 2.0*M*N*16*K*panels/t[t.size()/2]/1e9;
}
double peak(){ V s[12]; for(auto&x:s)x=_mm512_set1_ps(1); V a=_mm512_setzero_ps(); double best=0; for(int r=0;r<20;r++){double t0=now(); for(int n=0;n<100000;n++){
  #pragma GCC unroll 12
  for(int i=0;i<12;i++) s[i]=_mm512_fmadd_ps(a,a,s[i]); asm volatile("":"+v"(a));} double t=now()-t0; best=std::max(best,2.0*16*12*100000/t/1e9);} for(int i=0;i<12;i++) asm volatile(""::"v"(s[i])); return best;}
int main(){
  A=(float*)aligned_alloc(4096,1<<20);B=(float*)aligned_alloc(1<<21,16<<20);C=(float*)aligned_alloc(4096,1<<20);
  memset(A,0,1<<20);memset(B,0,16<<20);memset(C,0,1<<20);
  double pk=peak(); printf("peak %.0f\n",pk);
  for(int K:{128,256,512}) for(int panels:{1,4,8,16,32}){
    if((int64_t)K*48*4*panels>8<<20)continue;
    printf("K %d panels %2d (%4d KB): M8N3", K,panels,K*48*4*panels/1024);
    printf(" base %.0f%%",100*run<8,3,0,3>(panels,K)/pk);
    printf(" | L1+12 %.0f%%",100*run<8,3,12,3>(panels,K)/pk);
    printf(" +24 %.0f%%",100*run<8,3,24,3>(panels,K)/pk);
    printf(" +48 %.0f%%",100*run<8,3,48,3>(panels,K)/pk);
    printf(" +96 %.0f%%",100*run<8,3,96,3>(panels,K)/pk);
    printf(" +192 %.0f%%",100*run<8,3,192,3>(panels,K)/pk);
    printf(" | 4x4 %.0f%% +32 %.0f%% +64 %.0f%% 6x4 %.0f%% +64 %.0f%% | 1row 1x4x: %.0f%% \n",100*run<4,4,0,3>(panels,K*48/64)/pk,100*run<4,4,32,3>(panels,K*48/64)/pk,100*run<4,4,64,3>(panels,K*48/64)/pk,100*run<6,4,0,3>(panels,K*48/64)/pk,100*run<6,4,64,3>(panels,K*48/64)/pk,100*run<1,3,0,3>(panels,K)/pk);
  }
}
