from tests.web.test_case_page import cases, Cases
from tests.web.real_sites import as_
from tests.web.test_languages import english
def test_x(cases):
    for who in ("anna","ed"):
        b=as_(cases.client, who); b.client.headers["accept-language"]="ko"
        for key in cases.every:
            for path in (f"/case/{key}", f"/case/{key}/review",f"/case/{key}/files","/board","/"):
                print("##",who,path, sorted(english(b.get(path))))
    open("/tmp/case.html","w").write(b.get(f"/case/{cases.done}"))
