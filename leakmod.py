s=open('/tmp/out/leak.py').read()
if "self.n" not in s: s=s.replace("        if number in (N0, N1):","        self.n = getattr(self, 'n', 0) + 1; number = self.n\n        if number in (N0, N1):")
open('/tmp/out/leak.py','w').write(s)
